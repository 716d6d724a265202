"""The small form of `python -m benchmarks.trials`: what a study of many trials leaves, not how long it takes."""

from __future__ import annotations

from benchmarks.trials import simulation, violations
from hdvae_platform.tracking.client import Client

TRIALS = 40


def test_every_trial_is_told_and_tracked_once(tmp_path, database):
    done = simulation(tmp_path / "many", database, "random", TRIALS, "asha")
    costs = list(done.trials())
    done.end()
    assert len(costs) == TRIALS
    assert all(min(cost.suggest, cost.tell, cost.log) > 0 for cost in costs)
    assert violations(done, TRIALS) == []
    states = [run.state for run in done.records.runs("many")]
    assert {states.count("COMPLETE") > 0, states.count("PRUNED") > 0} == {True}

    client, lost = Client(done.places), done.records.runs("many")[7]
    tags = next(client.find({"hdvae.trial": "7"})).tags
    client.open_run("again", {}, {key: value for key, value in tags.items() if key.startswith("hdvae.")}, new=True)
    assert [found.partition(" (")[0] for found in violations(done, TRIALS)] == ["MLflow has"]
    done.records.take("many", "another")
    done.records.set_run("many", lost.trial, lost.seed, tracked=False)
    assert any(found.startswith("trial 7:") for found in violations(done, TRIALS))
    assert violations(done, TRIALS + 1) == [f"{TRIALS} runs and {TRIALS} trials instead of {TRIALS + 1}"]
