"""Study files: YAML, presets and `--set` overrides become a checked `Study`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hdvae.config import parse
from hdvae.errors import InputError, nearest, reason_of
from hdvae.experiment import presets
from hdvae_platform.study.checks import check
from hdvae_platform.study.space import set_at
from hdvae_platform.study.study import Study


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with `2e-3` a number as in JSON and YAML 1.2, and repeated fields refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise InputError(f"field {key} is given twice in the mapping that starts at line {line}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML safely.

    Raises:
        InputError: the text is not valid YAML; one line with the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except InputError as fault:
        raise InputError(f"{where}: {fault}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None
    except yaml.YAMLError as fault:
        raise InputError(f"{where}{_what_is_wrong(fault, text)}") from None


def _what_is_wrong(fault: yaml.YAMLError, text: str) -> str:
    """The place of a fault in YAML, what it is, and the line."""
    problem = getattr(fault, "problem", None) or str(fault).splitlines()[0]
    mark = getattr(fault, "problem_mark", None)
    if mark is None:
        return f": not valid YAML: {problem}"
    line = (text.splitlines() or [""])[min(mark.line, len(text.splitlines()) - 1)]
    if line.lstrip(" ").startswith("\t"):
        problem = "a line begins with a tab; indent it with spaces"
    elif problem == "mapping values are not allowed here":
        problem += "; is the line indented as its neighbours are, and a text with a colon in quotes?"
    return f" line {mark.line + 1}: not valid YAML: {problem}: {json.dumps(line.strip()[:60], ensure_ascii=False)}"


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: the file.
        overrides: `dotted.path=value` on the fields of the study or of its experiment, values in YAML.

    Raises:
        InputError: the file is missing or wrong; one line with the place and the nearest right thing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_nearest_file(path)}") from None
    except IsADirectoryError:
        files = sorted(file.name for file in path.glob("*.yaml"))
        raise InputError(f"{path}: is a folder, not a study file{nearest('', files)}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read: {reason_of(fault)}") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; a study has at least name, claim and experiment")
    study = parse(Study, _with_preset(read_yaml(text, str(path))), str(path))
    if overrides:
        study = _overridden(study, overrides)
    check(study, str(path))
    return study


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


def _with_preset(plain: Any) -> Any:
    """The values of a study file, with the preset that its experiment names merged in."""
    if not isinstance(plain, dict) or "experiment" not in plain:
        return plain
    return {**plain, "experiment": presets.expanded(plain["experiment"])}


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
