"""What commands import: those that only look at a study must not wait for torch, MLflow, Ray and scipy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hdvae_platform.cli import COMMANDS, run

HEAVY = {"torch", "mlflow", "ray", "scipy"}
CODE = """
import json, sys
from hdvae_platform.cli import run
code = run(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


class Ended:
    """A command that ran in an interpreter of its own: what it printed, and what it imported."""

    def __init__(self, *arguments: str | Path, home: Path, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *map(str, arguments)],
            env={**os.environ, "HDVAE_HOME": str(home), **environment},
            cwd=home.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        *errors, imported = done.stderr.splitlines()
        self.code, self.out, self.errors, self.imported = (
            done.returncode,
            done.stdout,
            errors,
            set(json.loads(imported)),
        )


@pytest.mark.parametrize("arguments", [["study", "list"], ["study", "status", "small"]], ids=" ".join)
def test_looking_at_a_study_imports_nothing_heavy(finished, arguments):
    places, *_ = finished
    done = Ended(*arguments, home=places.home)
    assert (done.code, done.errors) == (0, [])
    assert "small" in done.out
    assert not HEAVY & done.imported


FAULTS = [
    ({"experiment/training/freebit": 1.0}, "did you mean 'freebits'"),
    ({"seeds": []}, "seeds"),
]
MISSING = ({"experiment/data": {"name": "mnist5k"}}, "hdvae data fetch mnist5k")


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [("check", *fault) for fault in (*FAULTS, MISSING)] + [("run", *fault) for fault in FAULTS],
)
def test_a_faulty_study_file_is_reported_before_anything_heavy_is_imported(places, edit, command, changes, said):
    done = Ended("study", command, edit(changes), home=places.home)
    assert done.code == 2
    assert said in done.errors[0]
    assert not HEAVY & done.imported


def test_help_and_completion_import_no_command(tmp_path):
    asked = Ended("--help", home=tmp_path)
    assert all(name in asked.out for name in COMMANDS)
    mistyped = Ended("stduy", home=tmp_path)
    assert mistyped.errors == ["hdvae: unknown command 'stduy'; did you mean 'study'?"]
    completed = Ended(home=tmp_path, _HDVAE_COMPLETE="bash_complete", COMP_WORDS="hdvae ", COMP_CWORD="1")
    assert completed.out.split() == [f"plain,{name}" for name in COMMANDS]
    for done in (asked, mistyped, completed):
        assert not {*HEAVY, "optuna", "sqlalchemy", "pydantic"} & done.imported


def test_a_data_set_that_is_there_is_not_fetched_again(tmp_path, capsys):
    assert run(["data", "fetch", "mnist5k", "--home", str(tmp_path / "runs")]) == 0
    capsys.readouterr()
    done = Ended("data", "fetch", "mnist5k", home=tmp_path / "runs")
    assert "already fetched" in done.out
    assert not HEAVY & done.imported


def result_of(printed: str) -> str:
    """Claim, table, verdicts and places: what follows the progress of the runs."""
    return printed[printed.index("\nsmall: ") :]


def test_a_study_that_is_finished_and_sent_is_shown_without_ray_torch_or_mlflow(finished):
    places, file, first, _ = finished
    again = Ended("study", "run", file, home=places.home)
    assert (again.code, again.errors) == (0, [])
    assert again.out == result_of(first.stdout)
    assert not HEAVY & again.imported
    document = json.loads(Ended("study", "run", file, "--json", home=places.home).out)
    assert {"arms", "answers"} <= document.keys()


def test_other_code_is_not_shown_an_old_result(finished, capsys, monkeypatch):
    """It is refused, as it is before the end of a study."""
    from hdvae_platform.tracking import provenance

    places, file, *_ = finished
    other = {**provenance.code(), "sources": "0" * 64}
    monkeypatch.setattr(provenance, "code", lambda: other)
    assert run(["study", "run", str(file), "--home", str(places.home)]) == 2
    assert "--accept-code-change" in capsys.readouterr().err
