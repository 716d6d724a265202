"""One module owns each kind of name: paths on the storage, states of runs, MLflow's tags. No other module spells it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "platform/hdvae_platform"

OWNED = {
    "a path on the storage or in the home folder": (
        {"store/layout.py"},
        re.compile(
            r"trial-\W|trial-$|seed-\W|seed-$|study\.json|error\.txt|ray\.log|\b(samples|slots)\.png"
            r"|\b(optuna|mlflow)\.db|^(journal|checkpoints|per_image)$"
            r"|\b(attempts|requests|journal|checkpoints|per_image|preflight|submitted)/"
            r"|/(attempts|requests|journal|checkpoints|per_image|preflight|submitted)\b"
        ),
    ),
    "a state of a run": (
        {"store/run_state.py", "tracking/names.py"},  # MLflow has a status RUNNING too
        re.compile(r"^(WAITING|RUNNING|COMPLETE|PRUNED|FAIL)$"),
    ),
    "a tag of MLflow": ({"tracking/names.py"}, re.compile(r"^(hdvae|mlflow)\.\w")),
}
"""What is owned, the modules that own it, and a pattern of texts that spell it."""
METADATA = {"hdvae.caveats"}
"""Keys of the metadata of Parquet files, which look like tags."""


def spelled(source: str) -> Iterator[tuple[int, str]]:
    """The texts in a module's code, with their lines: docstrings and texts under attributes are prose, not code."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def offenders(what: str, files: Iterable[tuple[str, str]]) -> list[str]:
    owners, pattern = OWNED[what]
    return [
        f"{name}:{line}: {text!r}"
        for name, source in files
        if name not in owners
        for line, text in spelled(source)
        if pattern.search(text) and text not in METADATA and not is_module(text)
    ]


@pytest.mark.parametrize("what", OWNED)
def test_only_its_owner_spells(what):
    files = [(str(file.relative_to(ROOT)), file.read_text()) for file in ROOT.rglob("*.py")]
    assert len(files) > 50
    assert offenders(what, files) == []
    for owner in OWNED[what][0]:
        assert offenders(what, [("elsewhere.py", (ROOT / owner).read_text())]), f"{owner} spells none"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a path on the storage or in the home folder", 'f"{study}/trial-{trial:04d}/seed-{seed}"'),
        ("a path on the storage or in the home folder", 'f"{run}/checkpoints/{name}"'),
        ("a path on the storage or in the home folder", 'Path(run) / "journal"'),
        ("a path on the storage or in the home folder", 'home / "optuna.db"'),
        ("a path on the storage or in the home folder", 'write("samples.png", data)'),
        ("a state of a run", 'run.state == "FAIL"'),
        ("a tag of MLflow", '{"hdvae.study": name}'),
        ("a tag of MLflow", 'tags["mlflow.parentRunId"]'),
    ],
)
def test_a_spelled_name_is_found(what, code):
    assert offenders(what, [("running/some.py", code)])


def test_prose_and_modules_are_no_names():
    code = '"""The folder trial-0001/seed-0, and the state."""\nrun("hdvae_platform.cli")\nlog("mlflow.pyfunc")\n'
    assert all(offenders(what, [("some.py", code)]) == [] for what in OWNED)
