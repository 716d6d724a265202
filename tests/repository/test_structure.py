"""The structure of the sources: short modules, tests named after packages, a place in the import contract for each."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"hdvae": ROOT / "hdvae", "study": ROOT / "platform/hdvae_platform"}
"""The folder of tests of each package, and the package."""
LONGEST = 400
LONGER: dict[str, str] = {}
"""Modules that may be longer, each with the reason."""


def modules() -> list[Path]:
    return [file for package in SOURCES.values() for file in package.rglob("*.py")]


def packages(root: Path) -> set[str]:
    return {file.parent.name for file in root.glob("*/__init__.py")}


def test_no_module_is_longer_than_400_lines():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in modules()}
    assert len(lengths) > 50
    longer = {name: length for name, length in lengths.items() if length > LONGEST}
    assert longer.keys() == LONGER.keys(), longer


@pytest.mark.parametrize("tests", SOURCES)
def test_tests_are_in_folders_named_after_packages(tests):
    beside = {"helpers", "fixtures", "__pycache__"}
    folders = {folder.name for folder in (ROOT / "tests" / tests).iterdir() if folder.is_dir()} - beside
    assert folders
    assert folders <= packages(SOURCES[tests])


def layers(container: str) -> list[str]:
    """The parts of a package that import-linter keeps in order: one line for those that do not import each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (lines,) = [one["layers"] for one in contracts if one["type"] == "layers" and one["containers"] == [container]]
    return [part.strip() for line in lines for part in line.split(":")]


@pytest.mark.parametrize("root", SOURCES.values(), ids=lambda root: root.name)
def test_every_package_has_its_place_in_the_import_contract(root):
    modules = {file.stem for file in root.glob("*.py")} - {"__init__", "__main__"}
    named = layers(root.name)
    assert len(named) == len(set(named))
    assert set(named) == packages(root) | modules
