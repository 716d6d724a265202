"""Study files: YAML, presets and `--set` overrides become a checked `Study`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hdvae.config import parse
from hdvae.errors import InputError, nearest, reason_of
from hdvae.experiment import presets
from hdvae_platform.study.checks import check
from hdvae_platform.study.space import Dimension, set_at
from hdvae_platform.study.study import Study
from hdvae_platform.study.yaml_document import Document, read_yaml

MOST_BYTES = 1_000_000
"""Largest size of a study file."""


def load_study(path: Path, overrides: Sequence[str] = (), check_data: Callable[[str], None] | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: the file.
        overrides: `dotted.path=value` on the fields of the study or of its experiment, values in YAML.
        check_data: raises InputError if there is no data set of a name; its fault is told with the others.

    Raises:
        InputError: the file is missing or wrong; one line with the place and the nearest right thing.
    """
    document = Document.read(_text(path), str(path))
    try:
        study = parse(Study, _with_preset(document.plain, str(path)), str(path))
        if overrides:
            study = _overridden(study, overrides)
        check(study, str(path), check_data)
    except InputError as fault:
        raise InputError(document.located("\n".join(map(_hinted, str(fault).splitlines())))) from None
    return study


def _hinted(line: str) -> str:
    """An error message, and where the values of a setting are varied if it is about that in the experiment."""
    fields = "|".join(Dimension.model_fields)
    varies = re.search(rf'\bexperiment\..*(unknown field (\S+\.)?|got {{")({fields})\b', line)
    return f"{line}; what varies stands under space" if varies else line


def _text(path: Path) -> str:
    """The content of a study file."""
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.yaml"))
        raise InputError(f"{path}: is a folder, not a study file{nearest('', files)}")
    try:
        if not path.is_file() and path.exists():  # opening a pipe would wait for a writer
            raise InputError(f"{path}: is no regular file")
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: is larger than {MOST_BYTES // 1_000_000} MB, which no study file is")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_nearest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read: {reason_of(fault)}") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; a study has at least name, claim and experiment")
    return text


def preset_study(name: str, overrides: Sequence[str] = (), base: Study | None = None) -> Study:
    """The study of a single experiment: a preset over the experiment of `base`, or over the paper's.

    Raises:
        InputError: there is no such preset, or the overrides do not fit.
    """
    under = presets.PAPER if base is None else base.experiment.plain()
    experiment = presets.merged(under, presets.preset(name))
    title = name if base is None else f"{base.name}-{name}"
    study = parse(Study, {"name": title, "claim": f"The preset {name}.", "experiment": experiment}, name)
    return _overridden(study, overrides) if overrides else study


def _with_preset(plain: Any, where: str) -> Any:
    """The values of a study file, with the preset that its experiment names merged in."""
    if not isinstance(plain, dict) or "experiment" not in plain:
        return plain
    try:
        return {**plain, "experiment": presets.expanded(plain["experiment"])}
    except InputError as fault:
        raise InputError(f"{where}: experiment.preset: {fault}") from None


def _nearest_file(path: Path) -> str:
    folder = path.parent
    return nearest(path.name, [f.name for f in folder.glob("[!.]*.yaml")]) if folder.is_dir() else ""


def _overridden(study: Study, overrides: Sequence[str]) -> Study:
    plain = study.model_dump(mode="json")
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: write --set path=value, e.g. --set experiment.training.steps=100")
        inner = plain["experiment"] if path.split(".")[0] in plain["experiment"] else plain
        set_at(inner, path, read_yaml(text, f"--set {override}"), where=f"--set {override}")
    return parse(Study, plain, "--set")
