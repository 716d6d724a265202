"""The documents name things that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"hdvae": ROOT / "hdvae", "hdvae_platform": ROOT / "platform/hdvae_platform"}
PAGES = [
    *sorted(ROOT.glob("docs/*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
]
TESTS = {file: file.read_text() for file in (ROOT / "tests").rglob("*.py")}
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name that a module defines, at any depth of classes."""
    package, *parts = dotted.split(".")
    place = SOURCES[package]
    while parts and (place / parts[0]).is_dir():
        place = place / parts.pop(0)
    if not parts:
        return True
    module = place / f"{parts[0]}.py"
    if module.exists():
        parts.pop(0)
    else:
        module = place / "__init__.py"
    names: list[ast.stmt] = ast.parse(module.read_text()).body
    for part in parts:
        found = [node for node in names if part in defined(node)]
        if not found:
            return False
        names = getattr(found[-1], "body", [])
    return True


def defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def named() -> set[tuple[str, str]]:
    """Each page that names code by its full dotted name, and the name."""
    pages = [ROOT / "docs" / name for name in ("architecture.md", "glossary.md", "model.md")]
    pattern = re.compile(r"`(hdvae(?:_platform)?\.[\w.]+)`(?! ✗)")
    return {(page.name, dotted) for page in pages for dotted in pattern.findall(page.read_text())}


@pytest.mark.parametrize(("page", "dotted"), sorted(named()))
def test_names_of_code_in_the_documents_exist(page, dotted):
    assert exists(dotted), f"docs/{page} names {dotted}, which does not exist"


def test_a_name_that_does_not_exist_is_noticed():
    assert exists("hdvae.network.model.HDVAE.noise")
    assert not exists("hdvae.network.model.HDVAE.melody")
    assert not exists("hdvae_platform.store.nothing")


def is_test(name: str) -> bool:
    """Whether a name is a path below the root, the name of a test file, or the name of a test."""
    if "/" in name:
        return (ROOT / name).exists()
    if name.endswith(".py"):
        return any(file.name == name for file in TESTS)
    return any(f"def {name}(" in text for text in TESTS.values())


def named_tests() -> set[tuple[str, str]]:
    """Each page that names a test, a file of tests or a folder of them, and the name."""
    pattern = re.compile(r"\b(?:tests/[\w/]+|test_\w+)(?:\.py)?")
    found = {(str(page.relative_to(ROOT)), name) for page in PAGES for name in pattern.findall(page.read_text())}
    return found - {("docs/architecture.md", "tests/platform")}  # it says that there is no such folder


@pytest.mark.parametrize(("page", "name"), sorted(named_tests()))
def test_tests_in_the_documents_exist(page, name):
    assert is_test(name), f"{page} names {name}, which does not exist"


def test_a_test_that_does_not_exist_is_noticed():
    assert is_test("test_documents.py")
    assert is_test("test_a_test_that_does_not_exist_is_noticed")
    assert not is_test("test_" + "melody.py")
    assert not is_test("test_" + "melody")
    assert not is_test("tests/repository/test_melody.py")


def test_every_package_is_on_the_map():
    for source in SOURCES.values():
        for package in source.iterdir():
            if (package / "__init__.py").exists():
                assert f"`{package.name}`" in ARCHITECTURE, package.name


def test_the_readme_is_a_front_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    for page in ROOT.glob("docs/*.md"):
        assert f"(docs/{page.name})" in text, f"README does not lead to {page.name}"
