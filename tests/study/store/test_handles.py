"""Handles of runs, resolved with the study database alone."""

from __future__ import annotations

import re

import pytest

from hdvae.config import parse as parse_config
from hdvae.errors import InputError
from hdvae.experiment.presets import PAPER
from hdvae_platform.store.handles import RunIdentity, parse, resolve
from hdvae_platform.store.records import Records
from hdvae_platform.study.study import Study


@pytest.fixture
def records(url):
    return Records(url)


def define(records, name="first", **search):
    study = parse_config(Study, {"name": name, "claim": "c", "experiment": PAPER, **search}, "study")
    records.define(name, study.definition(), study.plan(), {})


def add(records, trial, seed, value=None, kind="search", name="first", **values):
    """A run; complete if a value is given."""
    records.add_run(name, trial, seed, kind)
    complete = {} if value is None else {"state": "COMPLETE", "value": value}
    records.set_run(name, trial, seed, **{"attempts": 1, **complete, **values})


def refused(handle, records):
    with pytest.raises(InputError) as fault:
        resolve(handle, records)
    assert "\n" not in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize(
    "text", ["0123456789abcdef", "first", "first/2", "first/two/0", "a/first/2/0", "first/-1/0", "s3://first/2/0", ""]
)
def test_what_is_no_handle(text, tmp_path):
    assert parse(text) is None
    with pytest.raises(InputError, match="no handle of a run: write STUDY/TRIAL/SEED"):
        resolve(text, Records(f"sqlite:///{tmp_path}/db"))


def test_a_run_by_trial_and_seed(records):
    define(records)
    add(records, 2, 0, run_id="abc")
    add(records, 2, 5)
    found = resolve("first/2/0", records)
    assert found == RunIdentity("first", 2, 0, "abc", "first/trial-0002/seed-0")
    assert found.handle == "first/2/0"
    assert resolve("first/2/5", records).run_id is None
    assert resolve("first/02/5", records).handle == "first/2/5"


def test_an_unknown_study_gets_the_nearest_one(records):
    line = refused("first/0/0", records)
    assert re.fullmatch(r"no run first/0/0: no study first in the study database \S+; it has no studies yet", line)
    define(records)
    assert refused("frist/0/0", records).endswith("; did you mean 'first'?")
    assert refused("frist/best", records).endswith("; did you mean 'first'?")


def test_an_unknown_trial_or_seed_gets_those_there_are(records):
    define(records)
    assert refused("first/0/0", records) == "no run first/0/0: study first has no trials yet"
    for trial in range(3):
        add(records, trial, 0)
    assert refused("first/7/0", records) == "no run first/7/0: study first has trials 0 to 2"
    add(records, 5, 1)
    assert refused("first/7/0", records) == "no run first/7/0: study first has trials 0 to 2, 5"
    assert refused("first/2/9", records) == "no run first/2/9: trial 2 of study first has seed 0"


def test_trials_that_have_not_begun_are_planned(records):
    define(records)
    for trial in range(3):
        records.add_run("first", trial, 0)
    assert refused("first/7/0", records) == "no run first/7/0: study first plans trials 0 to 2"


def test_a_run_that_never_started_is_told(records):
    define(records)
    records.add_run("first", 0, 0)
    assert refused("first/0/0", records).startswith("run first/0/0 has not started yet")


def test_a_run_of_a_study_that_was_deleted_and_made_again_has_not_started(records):
    define(records)
    add(records, 0, 0, attempts=3)
    records.forget("first")
    define(records)
    records.add_run("first", 0, 0)
    assert refused("first/0/0", records).startswith("run first/0/0 has not started yet")
    records.set_run("first", 0, 0, attempts=4)
    assert resolve("first/0/0", records).handle == "first/0/0"


def test_best_is_the_lowest_seed_of_the_best_mean(records):
    define(records)
    for trial, values in enumerate([(-90.0, -92.0), (-95.0, -80.0), (-91.0, -91.0)]):
        for seed, value in zip((7, 3), values, strict=True):
            add(records, trial, seed, value)
    assert resolve("first/best", records).handle == "first/1/3"


def test_best_of_a_metric_that_is_minimised(records):
    define(records, search={"metric": "valid/kl", "direction": "minimize"})
    for trial, value in enumerate([3.0, 1.0, 2.0]):
        add(records, trial, 0, value)
    assert resolve("first/best", records).handle == "first/1/0"


def test_of_equals_the_earlier_trial_is_the_best(records):
    define(records)
    for trial in (0, 1):
        add(records, trial, 0, -90.0)
    assert resolve("first/best", records).handle == "first/0/0"


def test_a_trial_with_a_failed_or_pruned_run_is_not_the_best(records):
    define(records)
    add(records, 0, 0, -1.0)
    add(records, 0, 1, state="FAIL")
    add(records, 1, 0, state="PRUNED", value=-2.0)
    assert refused("first/best", records) == "no run first/best: study first has no complete trial yet"
    add(records, 2, 0, -90.0)
    add(records, 2, 1)
    assert resolve("first/best", records).handle == "first/2/0"


def test_confirmed_trials_come_first(records):
    define(records)
    for trial, value in enumerate([-90.0, -91.0, -92.0]):
        add(records, trial, 0, value)
    add(records, 0, 11, -99.0, "confirmation")
    add(records, 1, 11, -95.0, "confirmation")
    add(records, 1, 12, kind="confirmation", state="FAIL")
    assert resolve("first/best", records).handle == "first/1/0"


def test_of_several_metrics_the_front_is_listed(records):
    define(records, search={"also": {"valid/kl": "minimize"}})
    for trial, (elbo, kl) in enumerate([(-90.0, 5.0), (-91.0, 4.0), (-91.0, 6.0), (-95.0, 1.0)]):
        for seed in (1, 0):
            add(records, trial, seed, elbo, also={"valid/kl": kl})
    assert refused("first/best", records) == (
        "no run first/best: study first searches for valid/elbo, valid/kl; "
        "choose a run of its Pareto front: first/0/0, first/1/0, first/3/0"
    )


def test_the_best_trial_keeps_the_constraints(records):
    define(records, search={"constraints": {"valid/kl": {"at_most": 1.0}}})
    for trial, (value, kls) in enumerate([(-1.0, (0.5, 1.7)), (-2.0, (0.9, 1.1)), (-3.0, (0.1, 0.1))]):
        for seed, kl in enumerate(kls):
            add(records, trial, seed, value, also={"valid/kl": kl})
    assert resolve("first/best", records).handle == "first/1/0", "trial 0 is better, but 1.1 on average"
    for trial, kl in ((1, 1.2), (2, 0.9)):
        add(records, trial, 7, -5.0 + trial, kind="confirmation", also={"valid/kl": kl})
    assert resolve("first/best", records).handle == "first/2/0", "trial 1 is not feasible on its fresh seed"
    records.set_run("first", 2, 7, also={"valid/kl": 9.0})
    assert "study first has no feasible trial: none has valid/kl at most 1" in refused("first/best", records)
