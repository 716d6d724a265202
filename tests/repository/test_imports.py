"""Importing a package of this repository changes nothing outside it, beyond what the packages that it uses change."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hdvae": ROOT / "hdvae", "hdvae_platform": ROOT / "platform/hdvae_platform"}
COMPARE = """
import importlib, json, logging, os, signal, sys, warnings

def state():
    loggers = {name: one.level for name, one in logging.root.manager.loggerDict.items() if hasattr(one, "level")}
    return {
        *(f"environment: {name}={value}" for name, value in os.environ.items()),
        *(f"warning filter: {one!r}" for one in warnings.filters),
        *(f"log level of {name}: {level}" for name, level in loggers.items() if level),
        f"log level of all: {logging.root.level}",
        *(f"handler of signal {one}: {signal.getsignal(one)!r}" for one in signal.valid_signals()),
    }

others, own = json.loads(sys.argv[1])
for statement in others:
    exec(statement, {})
before = state()
for name in own:
    importlib.import_module(name)
after = state()
print(json.dumps(sorted(before ^ after)))
"""


def modules(package: str) -> list[str]:
    folder = PACKAGES[package]
    files = sorted(folder.rglob("*.py"))
    names = [".".join((package, *file.relative_to(folder).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def others(package: str) -> list[str]:
    """The package's import statements of other packages, those in functions too."""
    found = set()
    for file in PACKAGES[package].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert name is not None, f"{file}: a relative import"
                if name.split(".")[0] not in (*PACKAGES, "__future__"):
                    found.add(ast.unparse(node))
    return sorted(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_changes_nothing_outside_the_package(package):
    """In an interpreter of its own, whose environment holds nothing that MLflow or Ray reads."""
    foreign = ("MLFLOW_", "RAY_", "TUNE_", "GIT_PYTHON_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    arguments = [sys.executable, "-c", COMPARE, json.dumps([others(package), modules(package)])]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_every_module_is_tried():
    for package in PACKAGES:
        assert len(modules(package)) > 30
        assert importlib.import_module(package).__file__ == str(PACKAGES[package] / "__init__.py")
