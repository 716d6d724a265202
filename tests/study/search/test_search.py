from __future__ import annotations

import math
import statistics
import time
import warnings

import optuna
import pytest

from benchmarks.constraints import OPTIMUM
from benchmarks.constraints import search as benchmark
from hdvae.errors import InputError
from hdvae_platform.search import optuna_study
from hdvae_platform.search.importance import MIN_IMPORTANCE_TRIALS, importances
from hdvae_platform.search.optuna_study import DRAWS
from hdvae_platform.search.search import Search
from hdvae_platform.search.trials import known_trials
from hdvae_platform.store import records as records_module
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.best import why_none
from hdvae_platform.store.records import Records
from hdvae_platform.study.file import load_study
from hdvae_platform.study.search_config import PrunerConfig
from hdvae_platform.study.space import set_key
from hdvae_platform.study.study import Study

SPACE = {
    "training.freebits": {"low": 0.1, "high": 4.0, "log": True},
    "model.width": {"low": 2, "high": 16},
    "training.temperature": {"choices": [0.1, [[0, 0.8], [20, 0.1]]]},
}


METHODS = ["random", "tpe", "gp", "nsga2"]
ON = [("sqlite", method) for method in METHODS] + [("postgresql", "random")]
"""Every sampler on one database, and one sampler on every database: they do not know of each other."""


@pytest.fixture
def begin(url):
    """A search on the same database, as a new launch would make it."""

    def new(study, **options):
        records = Records(url)
        records.define(study.name, study.definition(), study.plan(), {})
        return Search(study, url, records, **options)

    return new


def states(study, url):
    return [trial.state for trial in known_trials(study, url)]


def finish_all(search, value=lambda assignment: 1.0):
    done = []
    while (assignment := search.next()) is not None:
        search.finish(assignment.trial, assignment.seed, value(assignment))
        done.append(assignment)
    return done


def test_grid_issues_every_set_with_every_seed_once(study_file, begin, url):
    study = load_study(study_file)
    search = begin(study)
    assert search.total_runs() == 6
    done = finish_all(search, lambda a: a.trial + a.seed / 10)
    assert [(a.trial, a.seed, a.attempt) for a in done] == [(t, s, 1) for t in range(3) for s in (0, 1)]
    assert [a.params for a in done[::2]] == study.grid()
    assert states(study, url) == ["COMPLETE"] * 3
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.value for trial in stored] == pytest.approx([0.05, 1.05, 2.05])
    assert finish_all(begin(study)) == []


def test_a_grid_is_queued_whole_even_if_the_first_launch_was_cut_off(study_file, begin, url):
    study = load_study(study_file)
    begin(study.model_copy(update={"search": study.search.model_copy(update={"trials": 1})}))
    search = begin(study)
    assert [a.params for a in finish_all(search)[::2]] == study.grid()


@pytest.mark.parametrize(("url", "method"), ON, indirect=["url"])
def test_samplers_stay_in_the_space_and_do_not_repeat_themselves_after_a_restart(edit, begin, url, method):
    study = load_study(edit({"space": SPACE, "search": {"method": method, "trials": 8}, "seeds": [3]}))
    sets = []
    for _ in range(4):
        search = begin(study)
        for _ in range(2):
            assignment = search.next()
            search.finish(assignment.trial, assignment.seed, assignment.params["training.freebits"])
            sets.append(assignment.params)
    assert begin(study).next() is None
    assert len(set(map(set_key, sets))) == 8
    for params in sets:
        assert 0.1 <= params["training.freebits"] <= 4
        assert params["model.width"] in range(2, 17)
        assert params["training.temperature"] in (0.1, [[0, 0.8], [20, 0.1]])
        study.experiment_at(params)
    assert [trial.params for trial in known_trials(study, url)] == sets


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("method", "trials"), [("tpe", 30), ("gp", 15)])
def test_samplers_learn_from_what_they_are_told(edit, begin, method, trials):
    """The last five of their trials are nearer to the best value than the first ten, which are of chance."""
    space = {"training.freebits": SPACE["training.freebits"]}
    study = load_study(edit({"space": space, "search": {"method": method, "trials": trials}, "seeds": [0]}))
    done = finish_all(begin(study), lambda assignment: -distance(assignment))
    assert statistics.median(map(distance, done[-5:])) < 0.5 * statistics.median(map(distance, done[:10]))


def distance(assignment):
    """How far a trial is from the best one."""
    return abs(math.log(assignment.params["training.freebits"]))


@pytest.mark.parametrize(("url", "method"), ON, indirect=["url"])
def test_conditions_hold_in_sampled_sets(edit, begin, method):
    study = load_study(edit({"search": {"method": method, "trials": 20}, "seeds": [0]}))
    done = finish_all(begin(study))
    assert len(done) == 3
    for assignment in done:
        conditional = "training.temperature" in assignment.params
        assert conditional == (assignment.params["model.latent"] == "categorical")


def test_unfinished_runs_come_first_after_a_restart(study_file, begin):
    study = load_study(study_file)
    search = begin(study)
    first, second = search.next(), search.next()
    search.finish(second.trial, second.seed, 1.0)
    again = begin(study)
    reissued = again.next()
    assert (reissued.trial, reissued.seed, reissued.attempt) == (first.trial, first.seed, 2)
    assert reissued.params == first.params
    following = again.next()
    assert (following.trial, following.seed) == (1, 0)


def test_an_interrupted_run_waits(study_file, begin):
    study = load_study(study_file)
    search = begin(study)
    first = search.next()
    search.interrupt(first.trial, first.seed)
    assert search.runs()[0].state == "WAITING"
    assert begin(study).next().attempt == 2


def test_a_failure_fails_the_trial_and_the_study_goes_on(study_file, begin, url):
    study = load_study(study_file)
    search = begin(study)
    first = search.next()
    search.fail(first.trial, first.seed, "non-finite kl/layer_1 at step 3")
    rest = finish_all(search)
    assert len(rest) == 5
    assert states(study, url) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert search.runs()[0].error == "non-finite kl/layer_1 at step 3"
    assert finish_all(begin(study)) == []


def test_failures_are_retried_when_asked_and_optuna_learns_of_it(study_file, begin, url):
    study = load_study(study_file)
    search = begin(study)
    first = search.next()
    search.fail(first.trial, first.seed, "out of disk")
    finish_all(search, lambda a: 10.0 * a.trial + a.seed)
    assert begin(study).next() is None
    search = begin(study, retry_failed=True)
    again = search.next()
    assert (again.trial, again.seed, again.attempt, again.params) == (first.trial, first.seed, 2, first.params)
    assert search.next() is None
    assert not search.runs()[0].tracked
    interrupted = begin(study)  # the retry was cut off: it is taken up without being asked for again
    third = interrupted.next()
    assert third.attempt == 3
    interrupted.finish(third.trial, third.seed, 5.0)
    assert states(study, url) == ["COMPLETE"] * 3
    assert interrupted.runs()[0].error is None
    for _ in range(2):
        assert finish_all(begin(study, retry_failed=True)) == []
        stored = optuna.load_study(study_name="small", storage=url).trials
        assert [trial.state.name for trial in stored] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
        assert (stored[3].value, stored[3].params) == (3.0, stored[0].params)
    assert begin(study).total_runs() == 6


def test_a_retry_that_fails_again(study_file, begin, url):
    study = load_study(study_file)
    for options in ({}, {"retry_failed": True}):
        search = begin(study, **options)
        first = search.next()
        search.fail(first.trial, first.seed, "out of disk")
        finish_all(search)
    assert states(study, url) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert (search.runs()[0].error, search.runs()[0].attempts) == ("out of disk", 2)


def test_a_run_of_many_attempts_may_still_die_as_often_as_any(study_file, begin):
    study = load_study(study_file)
    for _ in range(5):
        search = begin(study)
        run = search.next()
    assert [search.retry(run.trial, run.seed) for _ in range(3)] == [True, True, False]


def test_a_value_that_is_not_finite_is_a_failure(study_file, begin, url):
    search = begin(load_study(study_file))
    first = search.next()
    search.finish(first.trial, first.seed, math.nan)
    assert search.runs()[0].state == "FAIL"
    assert "valid/elbo is nan" in search.runs()[0].error


def test_a_trial_is_told_even_if_the_driver_died_before_it_could(study_file, begin, url):
    study = load_study(study_file)
    search = begin(study)
    for assignment in (search.next(), search.next()):
        search._records.set_run("small", assignment.trial, assignment.seed, state="COMPLETE", value=2.0)
    begin(study)
    assert states(study, url)[0] == "COMPLETE"


def test_a_driver_whose_study_was_taken_issues_and_tells_nothing(study_file, url, monkeypatch):
    study = load_study(study_file)
    monkeypatch.setattr(records_module, "EXPIRY", -1.0)
    old, new = Records(url), Records(url)
    old.define(study.name, study.definition(), study.plan(), {})
    old.take("small", "first")
    search = Search(study, url, old)
    first = search.next()
    new.take("small", "second")
    for act in (search.next, lambda: search.finish(first.trial, first.seed, 1.0), search.check):
        with pytest.raises(Fenced):
            act()
    reissued = Search(study, url, new).next()
    assert (reissued.trial, reissued.seed, reissued.attempt) == (first.trial, first.seed, 2)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("method", ["random", "tpe"])
def test_sets_to_start_with_are_tried_first_and_once(edit, begin, url, method):
    first = {"training.temperature": 0.1, "model.width": 4, "training.freebits": 1}
    second = {"training.freebits": 0.5, "model.width": 16, "training.temperature": [[0, 0.8], [20, 0.1]]}
    third = {"training.freebits": 4.0, "model.width": 2, "training.temperature": 0.1}

    def study(*sets):
        search = {"method": method, "trials": 6, "start_with": list(sets)}
        return load_study(edit({"space": SPACE, "search": search, "seeds": [0]}))

    search, tried = begin(study(first, second)), []
    tried.append(search.next().params)
    for sets in ((first, second), (first, second, third)):
        again = begin(study(*sets))
        run = again.next()
        tried.append(run.params)
        again.finish(run.trial, run.seed, 1.0)
    tried += [run.params for run in finish_all(again)]
    assert tried[0] == tried[1] == {**first, "training.freebits": 1.0}, "an interrupted run goes on"
    assert tried[2:4] == [second, third]
    assert len(tried) == 7, "one of them twice"
    assert len(set(map(set_key, tried))) == 6
    assert Study.rebuilt("small", study(first).definition(), study(first).plan()).start_sets() == [tried[0]]


KL = "valid/kl at most 1"


@pytest.fixture
def constrained(edit):
    """Three sets with two seeds; the best two are confirmed with one seed."""
    return load_study(
        edit(
            {
                "space": {"training.freebits": {"choices": [1.0, 2.0, 3.0]}},
                "search/constraints": {"valid/kl": {"at_most": 1.0}},
                "confirm": {"top": 2, "seeds": 1},
            }
        )
    )


def searched(search, kls):
    """Finish the runs of the search, with the KL of each; the better, the lower the trial's number."""
    for kl in kls:
        run = search.next()
        search.finish(run.trial, run.seed, -float(run.trial), kl)


def test_a_trial_is_feasible_by_its_means_over_the_seeds(constrained, begin, url):
    search = begin(constrained)
    assert search.total_runs() == 8
    searched(search, [0.5, 1.7, 0.9, 1.1, 0.25])
    search = begin(constrained)
    searched(search, [0.25])
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.constraints[KL] for trial in stored] == pytest.approx([0.1, 0.0, -0.75])
    assert [trial.is_feasible for trial in known_trials(constrained, url)] == [False, True, True]
    assert [trial.user_attrs["hdvae: feasible"] for trial in stored] == [False, True, True], "for Optuna's page"
    assert search.total_runs() == 8
    confirmed = finish_all_of(search, 0.5)
    assert [run.trial for run in confirmed] == [1, 2], "trial 0 is better, but not feasible"


def finish_all_of(search, kl):
    runs = []
    while (run := search.next()) is not None:
        search.finish(run.trial, run.seed, 1.0, kl)
        runs.append(run)
    return runs


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_where_no_trial_is_feasible_none_is_confirmed_and_this_is_said(constrained, begin):
    search = begin(constrained)
    assert why_none(constrained, search.runs()) == "has no complete trial yet"
    searched(search, [2.0] * 5)
    assert search.total_runs() == 8
    searched(search, [2.0])
    assert search.is_done()
    assert search.total_runs() == 6
    assert why_none(constrained, search.runs()) == "has no feasible trial: none has valid/kl at most 1"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_launch_that_was_killed_between_constraint_and_value_loses_neither(constrained, begin, url):
    search = begin(constrained)
    search.next(), search.next()
    for seed in (0, 1):
        search._records.set_run("small", 0, seed, state="COMPLETE", value=-1.0, also={"valid/kl": 1.5})
    trial = optuna.load_study(study_name="small", storage=url).trials[0]
    optuna_study.running_trial(search._optuna._optuna, trial).set_constraint(KL, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        begin(constrained)
    stored = optuna.load_study(study_name="small", storage=url).trials[0]
    assert (stored.state.name, stored.value, stored.constraints) == ("COMPLETE", -1.0, {KL: 0.5})


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_mended_trial_carries_its_constraints(constrained, begin, url):
    search = begin(constrained)
    for _ in range(2):
        run = search.next()
        search.fail(run.trial, run.seed, "non-finite")
    mended = begin(constrained, retry_failed=True)
    searched(mended, [3.0, 3.0])
    (first, *_), stored = known_trials(constrained, url), optuna.load_study(study_name="small", storage=url).trials
    assert not first.is_feasible
    assert [trial.constraints for trial in stored if trial.state.name == "COMPLETE"] == [{KL: 2.0}]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_pruned_trial_is_feasible_by_its_last_report(edit, begin, url):
    changes = {
        "experiment/training/steps": 40,
        "space": {"training.freebits": {"choices": [1.0, 2.0, 3.0, 4.0]}},
        "search": {"pruner": "asha", "constraints": {"valid/kl": {"at_most": 1.0}}},
        "seeds": [0],
    }
    search = begin(load_study(edit(changes)))
    for value, kl in ((-1.0, 0.5), (-2.0, 0.5), (-3.0, 1.5), (-4.0, math.nan)):
        run = search.next()
        assert search.report(run.trial, 0, 10, value, kl) == (value < -1.0)
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.constraints.get(KL) for trial in stored] == [None, -0.5, 0.5, math.inf]
    assert [run.also for run in search.runs()[1:]] == [{"valid/kl": 0.5}, {"valid/kl": 1.5}, {}]


def test_a_value_of_a_constraint_that_is_not_finite_is_a_failure(constrained, begin):
    search = begin(constrained)
    run = search.next()
    assert search.finish(run.trial, run.seed, -1.0, math.nan).error == "valid/kl is nan"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_constraints_steer_the_search(edit, begin):
    """Free bits above 1 are infeasible, and the better the larger: late trials of TPE keep below, or close to it."""
    space = {"training.freebits": {"low": 0.1, "high": 4.0, "log": True}}
    search = {"method": "tpe", "trials": 30, "constraints": {"valid/kl": {"at_most": 1.0}}}
    search = begin(load_study(edit({"space": space, "search": search, "seeds": [0]})))
    tried = []
    while (run := search.next()) is not None:
        tried.append(run.params["training.freebits"])
        search.finish(run.trial, run.seed, tried[-1], tried[-1])
    assert sum(value > 1 for value in tried[-10:]) <= 5
    assert statistics.median(abs(math.log(value)) for value in tried[-10:]) < 0.6


def test_the_benchmark_of_constraints_reports_a_feasible_best_trial():
    found = benchmark("tpe", seed=0, trials=12)
    assert found.feasible
    assert found.value <= OPTIMUM
    assert 0 < found.feasible_trials < 12


@pytest.fixture
def pruned_study(edit):
    """Seven arms, reports at 10 and 20 of 40 steps."""
    return load_study(
        edit(
            {
                "experiment/training/steps": 40,
                "space": {"training.freebits": {"choices": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}},
                "search": {"pruner": "asha"},
            }
        )
    )


def reports(search, assignment, values):
    """Tell reports at 10, 20, … until the run is pruned; the step at which it was."""
    for i, value in enumerate(values, 1):
        if search.report(assignment.trial, assignment.seed, 10 * i, value):
            return 10 * i
    return None


def test_asha_prunes_a_trial_by_its_first_seed(pruned_study, begin, url):
    search = begin(pruned_study)
    first, second = search.next(), search.next()
    assert [(first.trial, first.seed), (second.trial, second.seed)] == [(0, 0), (1, 0)], "other seeds wait"
    assert reports(search, first, [-1.0, -1.0]) is None
    search.finish(first.trial, first.seed, -1.0)  # early, out of patience
    assert reports(search, second, [-5.0]) == 10
    other_seed, third = search.next(), search.next()
    assert [(other_seed.trial, other_seed.seed), (third.trial, third.seed)] == [(0, 1), (2, 0)]
    assert reports(search, other_seed, [-50.0] * 4) is None, "the pruner judges the first seed's run"
    search.finish(other_seed.trial, other_seed.seed, -3.0)
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.state.name for trial in stored[:3]] == ["COMPLETE", "PRUNED", "RUNNING"]
    assert stored[0].value == -2.0
    assert stored[0].intermediate_values == {10: -1.0, 20: -1.0}
    assert stored[1].intermediate_values == {10: -5.0}
    assert [(run.trial, run.seed, run.state) for run in search.runs()] == [
        (0, 0, "COMPLETE"),
        (0, 1, "COMPLETE"),
        (1, 0, "PRUNED"),
        (2, 0, "RUNNING"),
    ]
    assert search.total_runs() == 13


def poor_ones(begin, study, steps):
    """The steps at which seven runs are pruned, each worse than the one before; what was saved."""
    search = begin(study)
    pruned = []
    while (run := search.next()) is not None:
        pruned.append(reports(search, run, [-float(run.trial)] * (steps // 10)))
        if pruned[-1] is None:
            search.finish(run.trial, run.seed, -float(run.trial))
    return pruned, search.savings()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("pruner", "at"),
    [
        ("asha", 60),  # where the temperature ends
        ({"asha": {"grace": 20}}, 20),
        ({"asha": {"grace": 15, "reduction": 2}}, 20),  # the first evaluation from there on
    ],
)
def test_nobody_is_pruned_before_the_grace(edit, begin, pruner, at):
    changes = {
        "experiment/training/steps": 100,
        "experiment/training/temperature": {"start": 0.8, "end": 0.1, "steps": 60, "shape": "cosine"},
        "space": {"training.freebits": {"choices": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}},
        "search": {"pruner": pruner},
        "seeds": [0],
    }
    pruned, saved = poor_ones(begin, load_study(edit(changes)), 100)
    assert pruned == [None, *[at] * 6]
    assert saved == f"asha pruned 6 of 7 trials, which saved {6 * (1 - at / 100):.1f} full trainings"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_rungs_are_where_grace_and_reduction_say(edit, begin):
    """Of four runs, each better than the one before, half are to pass a rung: seen where the last one is judged."""
    space = {"training.freebits": {"choices": [1.0, 2.0]}}
    search = {"pruner": {"asha": {"grace": 20, "reduction": 2}}}
    study = load_study(edit({"experiment/training/steps": 100, "space": space, "search": search, "seeds": [0]}))
    search = begin(study)
    first, second = search.next(), search.next()
    assert reports(search, first, [-1.0] * 9) is None
    judged = [search.report(second.trial, 0, 10 * i, value) for i, value in enumerate([-9, 0, -9, 0, -9, -9, -9], 1)]
    assert judged == [False] * 7, "between the rungs at 20, 40 and 80 nobody is judged"
    assert search.report(second.trial, 0, 80, -9.0)


def test_a_pruned_trial_stays_pruned(pruned_study, begin, url):
    search = begin(pruned_study)
    first = search.next()
    reports(search, first, [-1.0])
    second = search.next()
    assert reports(search, second, [-5.0]) == 10
    again = begin(pruned_study)
    reissued = again.next()
    assert (reissued.trial, reissued.seed) == (0, 0)
    assert reports(again, reissued, [-1.0, -9.0, -9.0, -9.0]) is None, (
        "it repeats a step, and is alone at the next rung"
    )
    again.finish(0, 0, -9.0)
    rest = finish_all(again, lambda a: -1.0)
    assert (1, 0) not in {(a.trial, a.seed) for a in rest}
    assert states(pruned_study, url)[:2] == ["COMPLETE", "PRUNED"]
    assert begin(pruned_study).next() is None
    more_seeds = pruned_study.model_copy(update={"seeds": (0, 1, 2)})
    assert {a.trial for a in finish_all(begin(more_seeds))} == {0, 2, 3, 4, 5, 6}


def test_a_trial_is_told_that_it_is_pruned_even_if_the_driver_died_before(pruned_study, begin, url):
    search = begin(pruned_study)
    search.next()
    search._records.set_run("small", 0, 0, state="PRUNED", value=-5.0)
    assert begin(pruned_study).next().trial == 1
    assert states(pruned_study, url)[0] == "PRUNED"


def test_a_first_seed_that_fails_ends_its_trial_under_a_pruner(pruned_study, begin, url):
    search = begin(pruned_study)
    search.next()
    search.fail(0, 0, "non-finite")
    assert search.next().trial == 1
    assert search.total_runs() == 13
    assert states(pruned_study, url)[0] == "FAIL"


def test_the_median_prunes_what_is_below_it(pruned_study, begin, url):
    median = pruned_study.model_copy(
        update={"search": pruned_study.search.model_copy(update={"pruner": PrunerConfig(median={})}), "seeds": (0,)}
    )
    search = begin(median)
    for value in (-1.0, -2.0, -3.0, -4.0, -5.0):
        assignment = search.next()
        assert reports(search, assignment, [value] * 4) is None
        search.finish(assignment.trial, assignment.seed, value)
    assert reports(search, search.next(), [-3.5]) == 10
    assert reports(search, search.next(), [-2.5, -9.0, -9.0, -9.0]) is None, "the best value so far counts"
    assert states(median, url) == ["COMPLETE"] * 5 + ["PRUNED", "RUNNING"]


def test_nothing_is_pruned_at_its_last_step_or_without_a_pruner(pruned_study, begin):
    search = begin(pruned_study)
    for value in (-1.0, -9.0):
        assignment = search.next()
        assert not search.report(assignment.trial, assignment.seed, 40, value)
    free = pruned_study.model_copy(
        update={"name": "free", "search": pruned_study.search.model_copy(update={"pruner": None})}
    )
    search = begin(free)
    runs = [search.next() for _ in range(4)]
    assert [reports(search, run, [-float(run.trial)] * 4) for run in runs] == [None] * 4


@pytest.fixture
def confirmed_study(edit):
    return load_study(
        edit({"space": {"training.freebits": {"choices": [1.0, 2.0, 3.0]}}, "confirm": {"top": 2, "seeds": 3}})
    )


def worth(assignment):
    return {0: -3.0, 1: -1.0, 2: -2.0}[assignment.trial] + assignment.seed % 7


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_trials_are_confirmed_on_fresh_seeds(confirmed_study, begin, url, direction):
    study = confirmed_study.model_copy(
        update={"search": confirmed_study.search.model_copy(update={"direction": direction})}
    )
    search = begin(study)
    assert search.total_runs() == 12
    done = finish_all(search, worth)
    assert [a.kind for a in done] == ["search"] * 6 + ["confirmation"] * 6
    best = [1, 2] if direction == "maximize" else [0, 2]
    fresh = study.confirmation_seeds()
    assert [(a.trial, a.seed) for a in done[6:]] == [(trial, seed) for trial in best for seed in fresh]
    assert len(set(fresh) | set(study.seeds)) == 5
    assert done[6].params == next(a.params for a in done if a.trial == best[0])
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.value for trial in stored] == pytest.approx([-2.5, -0.5, -1.5]), "told of the search alone"
    assert search.total_runs() == 12
    assert begin(study).next() is None


def test_confirmation_goes_on_where_it_was_cut_off_and_may_grow(confirmed_study, begin):
    search = begin(confirmed_study)
    for _ in range(7):
        assignment = search.next()
        search.finish(assignment.trial, assignment.seed, worth(assignment))
    cut = search.next()
    again = begin(confirmed_study)
    first = again.next()
    assert (first.trial, first.seed, first.kind, first.attempt) == (cut.trial, cut.seed, "confirmation", 2)
    again.finish(first.trial, first.seed, 1.0)
    assert len(finish_all(again)) == 4
    more = confirmed_study.model_copy(update={"confirm": confirmed_study.confirm.model_copy(update={"seeds": 4})})
    assert [(a.trial, a.kind) for a in finish_all(begin(more))] == [(1, "confirmation"), (2, "confirmation")]


def test_confirmation_waits_for_the_last_run_of_the_search(confirmed_study, begin):
    search = begin(confirmed_study)
    runs = [search.next() for _ in range(6)]
    assert search.next() is None
    for run in runs[:-1]:
        search.finish(run.trial, run.seed, worth(run))
    assert search.next() is None
    search.finish(runs[-1].trial, runs[-1].seed, worth(runs[-1]))
    assert search.has_work()
    assert search.next().kind == "confirmation"


def test_a_confirmation_that_fails_leaves_its_trial_alone(confirmed_study, begin, url):
    search = begin(confirmed_study)
    for _ in range(6):
        assignment = search.next()
        search.finish(assignment.trial, assignment.seed, worth(assignment))
    first = search.next()
    search.fail(first.trial, first.seed, "out of disk")
    finish_all(search)
    assert states(confirmed_study, url) == ["COMPLETE"] * 3
    assert begin(confirmed_study).next() is None
    retried = begin(confirmed_study, retry_failed=True).next()
    assert (retried.trial, retried.seed, retried.kind) == (first.trial, first.seed, "confirmation")


@pytest.fixture
def two_metrics(edit):
    """An ELBO and a bias, of four arms: 0 dominates 3, and 1 has the least bias by far."""
    search = {"also": {"valid/relaxation_bias": "minimize"}}
    space = {"training.freebits": {"choices": [1.0, 2.0, 3.0, 4.0]}}
    return load_study(edit({"space": space, "search": search, "confirm": {"top": 3, "seeds": 1}}))


TWO = {0: (-1.0, 5.0), 1: (-4.0, 1.0), 2: (-3.0, 3.0), 3: (-2.0, 6.0)}


def told_two(search, change=lambda trial, seed, values: values):
    done = []
    while (assignment := search.next()) is not None:
        elbo, bias = TWO[assignment.trial]
        values = (elbo + assignment.seed % 3 - 0.5, bias + assignment.seed % 3 - 0.5)
        search.finish(assignment.trial, assignment.seed, *change(assignment.trial, assignment.seed, values))
        done.append(assignment)
    return done


def test_every_metric_that_is_searched_for_is_told_and_the_front_is_confirmed(two_metrics, begin, url):
    search = begin(two_metrics)
    done = told_two(search)
    assert [trial.values for trial in known_trials(two_metrics, url)] == [list(TWO[trial]) for trial in range(4)]
    assert [trial.value for trial in known_trials(two_metrics, url)] == [-1.0, -4.0, -3.0, -2.0]
    stored = optuna.load_study(study_name="small", storage=url)
    assert stored.metric_names == ["valid/elbo", "valid/relaxation_bias"]
    assert sorted(trial.number for trial in stored.best_trials) == [0, 1, 2]
    assert [a.trial for a in done if a.kind == "confirmation"] == [0, 2, 1], "by the study's metric, 3 behind them"
    assert search.run(1, 1).also == {"valid/relaxation_bias": 1.5}
    assert begin(two_metrics).next() is None


def test_dominated_trials_are_confirmed_after_the_front(two_metrics, begin):
    more = two_metrics.model_copy(update={"confirm": two_metrics.confirm.model_copy(update={"top": 4})})
    assert [a.trial for a in told_two(begin(more)) if a.kind == "confirmation"] == [0, 2, 1, 3]


def test_any_metric_that_is_not_finite_is_a_failure_and_can_be_mended(two_metrics, begin, url):
    def spoilt(trial, seed, values):
        return (values[0], math.inf) if (trial, seed) == (1, 0) else values

    search = begin(two_metrics)
    told_two(search, spoilt)
    assert (search.run(1, 0).state, search.run(1, 0).error) == ("FAIL", "valid/relaxation_bias is inf")
    assert states(two_metrics, url) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    told_two(begin(two_metrics, retry_failed=True))
    assert [trial.values for trial in known_trials(two_metrics, url)] == [list(TWO[trial]) for trial in range(4)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_every_sampler_takes_several_metrics(edit, begin, url, method):
    search = {"method": method, "trials": 12, "also": {"valid/relaxation_bias": "minimize"}}
    study = load_study(edit({"space": SPACE, "search": search, "seeds": [0]}))
    begun = begin(study)
    named = {"random": "RandomSampler", "tpe": "TPESampler", "gp": "GPSampler", "nsga2": "NSGAIISampler"}
    assert type(begun._optuna._optuna.sampler).__name__ == named[method]
    while (assignment := begun.next()) is not None:
        width = assignment.params["model.width"]
        begun.finish(assignment.trial, 0, float(width), float(-width))
    assert states(study, url) == ["COMPLETE"] * 12
    found = importances(study, url)
    assert max(found, key=found.get) == "model.width"


def test_no_parameter_set_is_begun_when_the_hours_are_over(edit, begin, url, monkeypatch):
    study = load_study(
        edit({"space": SPACE, "search": {"method": "random", "hours": 2}, "confirm": {"top": 1, "seeds": 1}})
    )
    search = begin(study)
    first, second, third = search.next(), search.next(), search.next()
    assert [(a.trial, a.seed) for a in (first, second, third)] == [(0, 0), (0, 1), (1, 0)]
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun + 7300)
    assert search.next().seed == 1, "a trial that was begun gets all its seeds"
    assert search.next() is None
    for trial in (0, 1):
        for seed in (0, 1):
            search.finish(trial, seed, float(trial))
    last = search.next()
    assert (last.trial, last.kind) == (1, "confirmation")
    search.finish(last.trial, last.seed, 0.5)
    assert not search.has_work()
    assert begin(study).next() is None
    longer = study.model_copy(update={"search": study.search.model_copy(update={"hours": 3})})
    assert begin(longer).next().trial == 2


def test_seeds_can_be_added_to_a_finished_study(study_file, begin):
    study = load_study(study_file)
    finish_all(begin(study))
    more = study.model_copy(update={"seeds": (0, 1, 2)})
    assert [(a.trial, a.seed) for a in finish_all(begin(more))] == [(0, 2), (1, 2), (2, 2)]


def test_a_trial_whose_suggestion_was_cut_off_is_not_run(edit, begin, url):
    """What an interrupt between two suggestions leaves: a running trial with some of its parameters."""
    study = load_study(edit({"space": SPACE, "search": {"method": "random", "trials": 3}, "seeds": [3]}))
    finish = begin(study)
    first = finish.next()
    finish.finish(first.trial, first.seed, 1.0)
    half = optuna.load_study(study_name="small", storage=url).ask()
    half.suggest_float("training.freebits", 0.1, 4.0, log=True)
    done = finish_all(begin(study))
    assert len(done) == 2
    assert half.number not in {assignment.trial for assignment in done}
    assert all(set(assignment.params) == set(SPACE) for assignment in done)
    assert states(study, url) == ["COMPLETE"] * 3


def test_a_study_that_optuna_does_not_know_yet_has_no_trials(study_file, url):
    Records(url)
    assert known_trials(load_study(study_file), url) == []


@pytest.mark.parametrize(("url", "method"), ON, indirect=["url"])
def test_no_parameter_set_is_tried_twice_and_a_space_can_be_exhausted(edit, begin, url, method):
    space = {"model.width": {"low": 4, "high": 6}, "model.latent": {"choices": ["normal", "categorical"]}}
    study = load_study(edit({"space": space, "search": {"method": method, "trials": 20}, "seeds": [0]}))
    assert begin(study).total_runs() == 6
    done = []
    while (assignment := (search := begin(study)).next()) is not None:  # each in a launch of its own
        search.finish(assignment.trial, 0, float(assignment.params["model.width"]))
        done.append(assignment.params)
    sets = [
        {"model.width": width, "model.latent": latent}
        for width in range(4, 7)
        for latent in space["model.latent"]["choices"]
    ]
    assert sorted(done, key=str) == sorted(sets, key=str)
    assert search.is_done()
    assert search.total_runs() == len(known_trials(study, url)) == 6
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert {trial.state.name for trial in stored if "hdvae: repeats trial" in trial.user_attrs} <= {"FAIL"}


def test_a_sampler_that_repeats_itself_is_asked_no_more_than_some_times(edit, begin, url, monkeypatch):
    """A number is drawn where it insists on the Gaussian, which has none; and what failed is not tried again."""
    space = {
        "model.latent": {"choices": ["normal", "categorical"]},
        "training.freebits": {"low": 0.1, "high": 4.0, "log": True, "when": {"model.latent": "categorical"}},
    }
    study = load_study(edit({"space": space, "search": {"method": "random", "trials": 3}, "seeds": [0]}))
    with optuna_study.experimental_parts():
        insist = optuna.samplers.PartialFixedSampler({"model.latent": "normal"}, optuna.samplers.RandomSampler(seed=0))
    monkeypatch.setattr(optuna_study, "_sampler", lambda study, trials: insist)
    search = begin(study)
    first = search.next()
    search.fail(first.trial, 0, "non-finite")
    rest = finish_all(search)
    assert first.params == {"model.latent": "normal"}
    assert [a.params["model.latent"] for a in rest] == ["categorical"] * 2
    assert all(0.1 <= a.params["training.freebits"] <= 4 for a in rest)
    assert rest[0].params != rest[1].params
    stored = optuna.load_study(study_name="small", storage=url).trials
    assert len(stored) == 3 + 2 * DRAWS
    repeats = [trial for trial in stored if "hdvae: repeats trial" in trial.user_attrs]
    assert {trial.user_attrs["hdvae: repeats trial"] for trial in repeats} == {first.trial}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_importance_is_of_what_the_value_depends_on(edit, begin, url, direction):
    changes = {"space": SPACE, "search": {"method": "random", "trials": 30, "direction": direction}, "seeds": [0]}
    study = load_study(edit(changes))
    assert importances(study, url) is None
    search = begin(study)
    for _ in range(MIN_IMPORTANCE_TRIALS - 1):
        assignment = search.next()
        search.finish(assignment.trial, 0, assignment.params["model.width"])
    assert importances(study, url) is None
    finish_all(search, lambda assignment: assignment.params["model.width"])
    found = importances(study, url)
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=found.get) == next(iter(found)) == "model.width"
    assert set(found) == set(SPACE)


def test_after_a_deletion_in_optuna_nothing_is_reported_under_new_parameters(study_file, begin, url):
    """Optuna's page deletes with a click. Optuna would number new trials from 0, as the runs of the old ones are."""
    study = load_study(study_file)
    search = begin(study)
    first = search.next()
    search.finish(first.trial, first.seed, 1.0)
    optuna.delete_study(study_name="small", storage=url)
    with pytest.raises(InputError, match=r"study small: trial 0 has runs, but Optuna has no such trial: .* backup; or"):
        begin(study)
    assert optuna.get_all_study_names(url) == [], "another refused launch would not see it"

    other = optuna.create_study(study_name="small", storage=url, direction="maximize")
    categories = optuna.distributions.CategoricalDistribution(["normal", "categorical"])
    temperatures = optuna.distributions.CategoricalDistribution([0.1, "[[0, 0.8], [20, 0.1]]"])
    given = {"model.latent": "categorical", "training.temperature": 0.1}
    known = {"model.latent": categories, "training.temperature": temperatures}
    other.add_trial(optuna.trial.create_trial(params=given, distributions=known, value=-1.0))
    with pytest.raises(
        InputError, match=r'trial 0 were trained with \{"model.latent": "normal"\}, but in Optuna it has'
    ):
        begin(study)


def test_runs_keep_their_parameters(study_file, begin, url):
    study = load_study(study_file)
    finish_all(begin(study))
    runs = Records(url).runs("small")
    assert [run.params for run in runs[::2]] == study.grid()
    again = begin(study)
    assert [again.assignment(run).params for run in runs[::2]] == study.grid()


def test_attempts_go_on_from_those_that_the_storage_knows(study_file, begin):
    """After the database was restored from a backup, or forgot."""
    search = begin(load_study(study_file), newest=lambda trial, seed: 7 if seed else 0)
    assert [search.next().attempt for _ in range(2)] == [1, 8]
