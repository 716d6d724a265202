"""Runs named by their handles, in what the real commands take and print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hdvae_platform.cli import run
from hdvae_platform.store.layout import run_folder
from hdvae_platform.study.file import load_study
from tests.study.commands.test_cli import fails

HANDLES = [f"small/{trial}/{seed}" for trial in range(3) for seed in (0, 1)]


@pytest.fixture
def printed(finished, capsys):
    """Run a command in the home of the finished study; returns the JSON that it prints."""

    def call(*arguments: str):
        assert run([*arguments, "--home", str(finished[0].home), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def best(arms):
    """The handle of the lowest seed of the arm with the highest mean ELBO."""
    return max(arms, key=lambda arm: arm["metrics"]["valid/elbo"]["mean"])["handles"][0]


def test_status_and_comparison_name_runs_by_their_handles(printed, finished):
    assert [row["handle"] for row in printed("study", "status", "small")["trials"]] == HANDLES
    assert sorted(handle for arm in printed("compare", "small")["arms"] for handle in arm["handles"]) == HANDLES
    *_, hdvae = finished
    lines = hdvae("study", "status", "small").stdout.splitlines()
    assert [line.split()[0] for line in lines[3:]] == HANDLES


def test_every_name_of_a_run_draws_the_same_picture(printed, finished, tmp_path, capsys):
    places, *_ = finished
    row = next(row for row in printed("study", "status", "small")["trials"] if row["handle"] == "small/1/0")
    folder = Path(places.storage) / run_folder("small", 1, 0)
    pictures = set()
    for name in ("small/1/0", row["run_id"], f"runs:/{row['run_id']}", str(folder), row["checkpoint"]):
        assert run(["sample", name, "--out", str(tmp_path / "x.png"), "--home", str(places.home)]) == 0
        pictures.add((tmp_path / "x.png").read_bytes())
    assert capsys.readouterr().err == ""
    assert len(pictures) == 1
    assert run(["sample", "small/1/1", "--out", str(tmp_path / "x.png"), "--home", str(places.home)]) == 0
    assert (tmp_path / "x.png").read_bytes() not in pictures


def test_the_best_run_is_that_of_the_comparison(printed):
    evaluated = printed("evaluate", "small/best", "--split", "valid", "--samples", "2", "--draws", "1")
    assert (evaluated["run"], evaluated["handle"]) == ("small/best", best(printed("compare", "small")["arms"]))


def test_the_best_trial_is_written_as_the_same_experiment(printed, finished, tmp_path, capsys):
    """A file that trains it again: the same settings, all of them, and the seeds."""
    places, file, *_ = finished
    answer = printed("study", "best", "small", "--out", str(tmp_path / "again.yaml"))
    (found,) = answer["best"]
    assert found["handle"] == best(printed("compare", "small")["arms"])
    again, study = load_study(tmp_path / "again.yaml"), load_study(file)
    assert again.experiment == study.experiment_at(found["settings"])
    assert (again.seeds, again.space) == (study.seeds, {})
    home = ["--home", str(places.home)]
    for wrong, said in (
        (["smal"], "did you mean 'small'?"),
        (["small", "--trial", "77"], "give --out FILE.yaml"),
        (["small", "--trial", "77", "--out", str(tmp_path / "no.yaml")], "study small has no complete trial 77"),
        (["small", "--out", str(tmp_path / "again.txt")], "a study file ends in .yaml"),
    ):
        assert run(["study", "best", *wrong, *home]) == 2
        assert said in capsys.readouterr().err


def test_a_folder_of_the_name_wins_and_that_is_said(finished, tmp_path, monkeypatch, capsys):
    places, *_ = finished
    monkeypatch.chdir(tmp_path)
    Path("small/0").mkdir(parents=True)
    Path("small/0/0").symlink_to(Path(places.storage) / run_folder("small", 2, 1))
    for name, out in (("small/0/0", "folder.png"), ("small/2/1", "handle.png")):
        assert run(["sample", name, "--out", out, "--home", str(places.home)]) == 0
    assert Path("folder.png").read_bytes() == Path("handle.png").read_bytes()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("small/0/0 exists as a file or folder here")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("small/9/0", "study small has trials 0 to 2"),
        ("small/0/7", "trial 0 of study small has seeds 0 to 1"),
        ("smal/best", "did you mean 'small'?"),
        ("f" * 32, "no such MLflow run"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_run_that_does_not_exist_is_one_line(capsys, finished, tmp_path, command, name, said):
    out = ["--out", tmp_path / "x.png"] if command == "sample" else []
    assert said in fails(capsys, command, name, *out, "--home", finished[0].home)


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_help_says_what_a_run_may_be(capsys, command):
    assert run([command, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for form in ("STUDY/TRIAL/SEED", "first/2/0", "STUDY/best", "MLflow run id", "folder"):
        assert form in words
