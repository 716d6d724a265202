"""Pruned runs, and winners confirmed on fresh seeds, on real Ray."""

from __future__ import annotations

import json
import re

import numpy as np
import optuna
import pytest

from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.per_image import read_per_image
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking.client import Client
from tests.study.helpers.outcome import series, tracked


def test_a_poor_arm_is_pruned(places, edit, hdvae):
    """An arm that hardly learns is stopped at its first report, and the process that ran it goes on with the next."""
    file = edit(
        {
            "experiment/training/steps": 40,
            "space": {"training.learning_rate": {"choices": [0.002, 1e-9, 2e-9, 0.02]}},
            "search": {"pruner": "asha"},
            "resources": {"concurrent": 1},
        }
    )
    done = hdvae("study", "run", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "small/1/0 pruned at step 10, valid/elbo -" in done.stdout
    assert "runs 6/6" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "finished"
    assert [(r["number"], r["seed"], r["state"], r["step"], r["attempts"]) for r in status["trials"]] == [
        (0, 0, "COMPLETE", 40, 1),
        (0, 1, "COMPLETE", 40, 1),
        (1, 0, "PRUNED", 10, 1),
        (2, 0, "PRUNED", 10, 1),
        (3, 0, "COMPLETE", 40, 1),
        (3, 1, "COMPLETE", 40, 1),
    ]
    assert "4 of 6 runs done, 2 pruned, 0 failed" in hdvae("study", "status", "small").stdout
    trials = optuna.load_study(study_name="small", storage=places.database).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    parents, children = tracked(places)
    assert [run.status for run in parents] == ["FINISHED"]
    for (number, seed), run in children.items():
        values = {
            step: value for (name, step), (value, _) in series(places, run.run_id).items() if name == "valid/elbo"
        }
        assert sorted(values) == ([10] if number in (1, 2) else [10, 20, 30, 40])
        assert run.status == ("KILLED" if number in (1, 2) else "FINISHED")
        assert run.tags["hdvae.state"] == ("PRUNED" if number in (1, 2) else "COMPLETE")
        if seed == 0:
            assert trials[number].intermediate_values == values
    document = json.loads(hdvae("compare", "small", "--json").stdout)
    assert [(arm["runs"], arm["pruned"], len(arm["metrics"]) > 0) for arm in document["arms"]] == [
        (2, 0, True),
        (0, 1, False),
        (0, 1, False),
        (2, 0, True),
    ]
    assert "0 + 1 pruned" in hdvae("compare", "small").stdout

    before = {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")}
    assert hdvae("study", "run", file).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")} == before


def test_winners_are_confirmed_on_fresh_seeds(places, edit, hdvae):
    file = edit(
        {
            "space": {"training.learning_rate": {"choices": [0.002, 1e-9]}},
            "search": {"also": {"valid/relaxation_bias@tau=0.5": "minimize"}},
            "confirm": {"top": 1, "seeds": 3},
            "seeds": [0],
        }
    )
    done = hdvae("study", "run", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs 5/5" in done.stdout
    assert re.search(r"small/0/\d+ \(confirmation\) done", done.stdout)
    assert "best trials with fresh seeds" in done.stdout
    assert "evaluated on the same validation images as the search" in " ".join(done.stdout.split())
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "finished"
    kinds = [(row["number"], row["kind"]) for row in status["trials"]]
    assert kinds == [(0, "search"), *[(0, "confirmation")] * 3, (1, "search")]
    fresh = sorted(row["seed"] for row in status["trials"] if row["kind"] == "confirmation")
    document = json.loads(hdvae("compare", "small", "--json").stdout)
    assert [(arm["runs"], arm["seeds"]) for arm in document["arms"]] == [(1, [0]), (1, [0])]
    one, bias = document["confirmations"]
    assert (one["trial"], one["seeds"], one["metric"]) == (0, fresh, "valid/elbo")
    assert (bias["trial"], bias["seeds"], bias["metric"]) == (0, fresh, "valid/relaxation_bias@tau=0.5")
    assert one["search"] == document["arms"][0]["metrics"]["valid/elbo"]["mean"]
    assert one["shrinkage"] == pytest.approx(one["search"] - np.mean(one["confirmed"]["values"]))
    assert one["confirmed"]["low"] < one["confirmed"]["mean"] < one["confirmed"]["high"]
    runs = list(Client(places).find({"hdvae.study": "small", "hdvae.kind": "confirmation"}))
    assert sorted(int(run.tags["hdvae.seed"]) for run in runs) == fresh
    assert {run.status for run in runs} == {"FINISHED"}
    journals = [Journal(Storage(places.storage), run_folder("small", 0, seed)).entry(20) for seed in fresh]
    assert one["confirmed"]["values"] == [entry.metrics["valid/elbo"] for entry in journals]
    assert len(set(one["confirmed"]["values"])) == 3
    told = optuna.load_study(study_name="small", storage=places.database).trials[0]
    last = Journal(Storage(places.storage), run_folder("small", 0, 0)).entry(20).metrics
    assert told.values == [last["valid/elbo"], last["valid/relaxation_bias@tau=0.5"]]
    (parent,) = Client(places).find({"hdvae.study": "small", "hdvae.kind": "study"})
    assert "valid/relaxation_bias@tau=0.5" in parent.tags["mlflow.note.content"]
    refused = hdvae("study", "run", file, "--set", f"seeds=[0, {fresh[0]}]")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "which cannot become seeds of the search" in refused.stderr


def test_winners_are_confirmed_on_images_that_the_search_did_not_see(places, edit, hdvae):
    file = edit({"space": {}, "confirm": {"top": 1, "seeds": 1, "images": "held_out"}, "seeds": [0]})
    done = hdvae("study", "run", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "evaluated on held-out validation images, which the search did not see" in done.stdout
    assert "measured differently" not in done.stdout + hdvae("compare", "small").stdout
    (fresh,) = load_study(file).confirmation_seeds()
    storage = Storage(places.storage)
    seen = [read_per_image(storage, run_folder("small", 0, seed), "valid")["image"].to_pylist() for seed in (0, fresh)]
    assert [len(images) for images in seen] == [12, 12], "of 24, of which evaluation.images wants 20"
    assert not set(seen[0]) & set(seen[1])
    found = {run.tags["hdvae.kind"]: run for run in Client(places).find({"hdvae.study": "small"})}
    assert found["run"].params["evaluation.part"] == "search"
    assert found["confirmation"].params["evaluation.part"] == "held_out"
    assert found["run"].tags["hdvae.fingerprint"] != found["confirmation"].tags["hdvae.fingerprint"]
    refused = hdvae("study", "run", file, "--set", "confirm.images=same")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert 'confirm.images was "held_out", is "same"' in refused.stderr
