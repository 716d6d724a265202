"""Runs that fail, retries, and code that changed, on real Ray."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from hdvae_platform.store.records import Records
from hdvae_platform.tracking import provenance
from tests.study.helpers.commands import made_anew
from tests.study.helpers.outcome import tensors, tracked

ALONE = {"resources": {"concurrent": 1}}
"""One run at a time, where that is not the question: a second worker takes some seconds of a core to start."""


def test_failures_end_their_trial_and_the_study_goes_on(places, edit, hdvae):
    """An absurd learning rate gives a real non-finite loss."""
    file = edit({"space": {"training.learning_rate": {"choices": [1e30, 0.002]}}, "seeds": [0], **ALONE})
    done = hdvae("study", "run", file)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "non-finite" in done.stderr
    _, children = tracked(places)
    assert {key: run.status for key, run in children.items()} == {(0, 0): "FAILED", (1, 0): "FINISHED"}
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [row["state"] for row in status["trials"]] == ["FAIL", "COMPLETE"]
    assert "step" in status["trials"][0]["error"]
    assert "1 failed" in hdvae("compare", "small").stdout


def test_a_failed_run_is_retried_from_its_checkpoint(finished, places, edit, hdvae):
    """A folder in the way of its last checkpoint crashes each attempt at a run, which then fails.

    With the folder gone, it goes on where it stood.
    """
    reference, _, _, _ = finished
    file = edit({"experiment/data/path": str(reference.home.parent / "images.npz"), "seeds": [0], **ALONE})
    folder = places.home / "studies/small/trial-0001/seed-0"
    obstacles = [folder / f"checkpoints/000000020-000{attempt}.safetensors" for attempt in (1, 2, 3)]
    for obstacle in obstacles:
        (obstacle / "full").mkdir(parents=True)
    failed = hdvae("study", "run", file)
    assert failed.returncode == 1, failed.stderr
    assert "--retry-failed` starts them again" in failed.stderr
    assert (folder / "error.txt").read_text().count("\n") > 5
    assert failed.stdout.count("; it is started again") == 2
    (row,) = [row for row in json.loads(hdvae("study", "status", "small", "--json").stdout)["trials"] if row["error"]]
    assert (row["number"], row["attempts"]) == (1, 3)
    assert row["error"].endswith(", 3 times without a report in between")
    parents, children = tracked(places)
    assert [parents[0].status, children[1, 0].status] == ["FAILED", "FAILED"]

    for obstacle in obstacles:
        shutil.rmtree(obstacle)
    assert hdvae("study", "run", file).returncode == 1, "without the flag a failure stands"
    retried = hdvae("study", "run", file, "--retry-failed")
    assert retried.returncode == 0, retried.stderr
    assert "small/1/0 goes on from step 10" in retried.stdout
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"FINISHED"}
    assert len(children) == 3
    assert children[1, 0].tags["hdvae.state"] == "COMPLETE"
    assert not (folder / "error.txt").exists()
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "finished"
    assert [(row["state"], row["attempts"], row["error"]) for row in status["trials"]] == [
        ("COMPLETE", 1, None),
        ("COMPLETE", 4, None),
        ("COMPLETE", 1, None),
    ]
    assert tensors(places, 1, 0) == tensors(reference, 1, 0)
    assert "failed" not in hdvae("compare", "small").stdout


def test_other_code_goes_on_with_a_study_only_if_that_is_accepted(places, edit, hdvae, tmp_path, monkeypatch):
    file = edit({"space": {}, "seeds": [0]})
    assert hdvae("study", "run", file).returncode == 0
    root = Path(provenance.__file__).parents[3]
    for package in ("hdvae", "platform"):
        shutil.copytree(root / package, tmp_path / "other" / package)
    (tmp_path / "other/hdvae/network/model.py").open("a").write("CHANGED = True\n")
    anew = partial(made_anew, HDVAE_HOME=str(places.home))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/other{os.pathsep}{tmp_path}/other/platform")

    refused = anew("study", "run", file)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    before = Records(places.database).study("small").code["sources"]
    assert f"was run with hdvae {provenance.code()['version']} (sources {before[:8]}" in refused.stderr
    assert "--accept-code-change" in refused.stderr
    assert Records(places.database).changes("small") == []

    accepted = anew("study", "run", file, "--accept-code-change", "--set", "seeds=[0, 1]")
    assert accepted.returncode == 0, accepted.stderr
    (code,) = (change for change in Records(places.database).changes("small") if change.what == "code")
    assert code.before["sources"] == before != code.after["sources"]
    assert code.after["sources"][:8] in refused.stderr
    _, children = tracked(places)
    assert [children[0, seed].tags["hdvae.sources"] for seed in (0, 1)] == [before, code.after["sources"]]
    assert anew("study", "run", file, "--set", "seeds=[0, 1]").returncode == 0
