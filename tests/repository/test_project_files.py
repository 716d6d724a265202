"""Files that a stranger expects in a repository: citation, changelog, workflow, hooks, typed wheels."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml

from hdvae.version import __version__

ROOT = Path(__file__).parents[2]


def test_the_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    (paper,) = citation["references"]
    assert paper["title"] == "Towards Hierarchical Discrete Variational Autoencoders"
    assert [author["family-names"] for author in paper["authors"]] == ["Liévin", "Dittadi", "Maaløe", "Winther"]
    assert paper["year"] == 2019


def releases() -> list[tuple[str, str | None]]:
    """Version and date of each section of the changelog, from the top."""
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    parts = [re.fullmatch(r"\[([^]]+)\](?: - (\d{4}-\d\d-\d\d))?", heading) for heading in headings]
    assert all(parts), headings
    return [(part[1], part[2]) for part in parts]


def test_the_changelog_has_unreleased_changes_above_dated_releases():
    (top, undated), *dated = releases()
    assert (top, undated) == ("Unreleased", None)
    dates = [date.fromisoformat(day) for _, day in dated]
    assert dates == sorted(dates, reverse=True)
    assert dated[0][0] == __version__


def test_the_changelog_uses_the_kinds_of_change_of_its_format():
    kinds = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_has_the_date_of_the_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["date-released"]) == releases()[1]


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, with the programs of .venv."""
    text = (ROOT / "Makefile").read_text()
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1].splitlines()
    return [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in lines]


def test_make_study_is_the_two_commands_whose_imports_are_tested():
    """`tests/study/commands/test_startup.py` looks at what they import where nothing is left to do."""
    commands = ["hdvae data fetch mnist5k", "hdvae study run studies/first.yaml"]
    assert recipe("study") == [f".venv/bin/{command}" for command in commands]


def test_the_hooks_are_the_commands_of_make_check():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == recipe("check")
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False, "each command looks at the whole project"


def test_the_workflow_runs_what_the_continuous_integration_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert job["strategy"]["matrix"]["python"][0] == "3.11", "the lowest version that pyproject.toml allows"


def test_the_continuous_integration_checks_and_tests():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make check", "make test"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a wheel that is built of the checkout, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("hdvae", "platform"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("hdvae-*.whl")
    return set(zipfile.ZipFile(made).namelist())


def test_the_wheel_says_that_both_packages_are_typed(wheel):
    assert {"hdvae/py.typed", "hdvae_platform/py.typed"} <= wheel


def test_the_wheel_holds_every_module(wheel):
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "hdvae").rglob("*.py")}
    modules |= {str(file.relative_to(ROOT / "platform")) for file in (ROOT / "platform").rglob("*.py")}
    assert {name for name in wheel if name.endswith(".py")} == modules
