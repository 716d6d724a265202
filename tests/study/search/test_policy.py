from __future__ import annotations

import math

import pytest

from hdvae_platform.search.policy import confirmations, is_prunable, seeds_to_run, trial_outcome
from hdvae_platform.search.trials import Trial
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.file import load_study


def run(seed=0, state=RunState.COMPLETE, value=1.0, bias=0.0):
    return Run(0, seed, state, 1, value, None, None, False, also={"valid/relaxation_bias": bias})


@pytest.fixture
def study(edit):
    def changed(**search):
        return load_study(edit({"search": {"method": "grid", **search}, "confirm": {"top": 2, "seeds": 2}}))

    return changed


@pytest.mark.parametrize(
    ("state", "seeds"), [(None, (0,)), ("RUNNING", (0,)), ("FAIL", (0,)), ("PRUNED", (0,)), ("COMPLETE", (0, 1))]
)
def test_under_a_pruner_the_other_seeds_wait_for_the_first(study, state, seeds):
    first = None if state is None else run(state=RunState(state))
    assert tuple(seeds_to_run(study(pruner="asha"), first)) == seeds
    assert tuple(seeds_to_run(study(), first)) == (0, 1)


def test_the_pruner_judges_a_running_first_seed_by_finite_values(study):
    running = run(state=RunState.RUNNING)
    pruned = study(pruner="median")
    assert is_prunable(pruned, running, -3.0)
    assert not is_prunable(study(), running, -3.0)
    assert not is_prunable(pruned, run(seed=1, state=RunState.RUNNING), -3.0)
    assert not is_prunable(pruned, run(), -3.0)
    assert not is_prunable(pruned, running, math.nan)
    assert not is_prunable(pruned, running, None)


def test_a_trial_is_told_the_means_over_its_seeds_unless_a_run_did_not_complete(study):
    two = study(also={"valid/relaxation_bias": "minimize"})
    assert trial_outcome(two, [run(0, value=1.0, bias=4.0), run(1, value=2.0, bias=5.0)]) == ("COMPLETE", [1.5, 4.5])
    assert trial_outcome(two, [run(0), run(1, state=RunState.PRUNED)]) == ("PRUNED", None)
    assert trial_outcome(two, [run(0, RunState.FAIL), run(1, RunState.PRUNED)]) == ("FAIL", None)


def test_the_pareto_front_is_confirmed_before_dominated_trials(study):
    two = study(also={"valid/relaxation_bias": "minimize"})
    values = [(-1.0, 9.0), (-2.0, 9.5), (-3.0, 1.0), None]
    trials = [Trial(n, RunState.COMPLETE, {}, value, RunState.COMPLETE) for n, value in enumerate(values)]
    seeds = two.confirmation_seeds()
    assert confirmations(two, trials) == [(0, seeds[0]), (0, seeds[1]), (2, seeds[0]), (2, seeds[1])]


def test_only_feasible_trials_are_confirmed(study):
    bounded = study(constraints={"valid/kl": {"at_most": 1.0}})
    beyond = [{"valid/kl at most 1": excess} for excess in (0.1, 0.0, -0.5, -0.9)]
    trials = [
        Trial(n, RunState.COMPLETE, {}, [-float(n)], RunState.COMPLETE, excesses=excess)
        for n, excess in enumerate(beyond)
    ]
    assert [trial for trial, _ in confirmations(bounded, trials)] == [1, 1, 2, 2]
    assert confirmations(bounded, trials[:1]) == []
