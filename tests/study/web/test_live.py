"""What the live page is told of a study: before it begins, while it runs, and after."""

from __future__ import annotations

import json

import pytest

from hdvae.errors import InputError
from hdvae_platform.store.best import best_trials
from hdvae_platform.web.live import Live


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture
def watch():
    """What the page is told now."""
    lives = {}

    def ask(driven, metric=None):
        live = lives.setdefault(id(driven), Live(driven.places, Clock()))
        told = live.study(driven.study.name, metric)
        assert json.loads(json.dumps(told, allow_nan=False))["study"] == "small"
        return told

    return ask


def test_a_study_that_has_not_begun(driven, watch):
    study = driven()
    study.take()
    told = watch(study)
    assert (told["state"], told["begun"], told["runs"], told["claim"]) == (
        "running",
        False,
        6,
        "Small things run fast.",
    )
    assert told["states"] == {"complete": 0, "pruned": 0, "fail": 0, "running": 0, "waiting": 6}
    assert told["trials"] == {"done": 0, "of": 3}
    assert (told["under_way"], told["best"], told["front"], told["failures"], told["curves"]) == ([], [], [], [], [])


def test_a_study_under_way(driven, watch):
    study = driven()
    study.take()
    study.train(-3.0, -2.0)
    study.train(-5.0, float("nan"))
    run = study.begin()
    study.report(run, 10, elbo=-4.0, kl=2.0)
    told = watch(study)
    assert told["states"] == {"complete": 1, "pruned": 0, "fail": 1, "running": 1, "waiting": 3}
    (under_way,) = told["under_way"]
    assert (under_way["handle"], under_way["step"], under_way["steps"], under_way["value"]) == (
        "small/1/0",
        10,
        20,
        -4.0,
    )
    assert (under_way["settings"], under_way["images_per_second"]) == ("freebits 2.0", 100.0)
    assert told["seconds_left"] == (4 * 20 - 10) * 1.0, "at a second a step, one run at a time"
    (failure,) = told["failures"]
    assert (failure["handle"], failure["state"]) == ("small/0/1", "FAIL")
    assert "valid/elbo is nan" in failure["error"]
    first, second = told["curves"]
    assert (first["trial"], [one["points"] for one in first["runs"]]) == (1, [[(10, -4.0)]])
    assert [one["points"] for one in second["runs"]] == [[(10, -3.0), (20, -2.0)], [(10, -5.0)]]
    assert watch(study, "valid/kl")["curves"][0]["runs"][0]["points"] == [(10, 2.0)]
    assert watch(study, "no/metric")["metric"] == "valid/elbo"


def test_without_a_driver_nothing_runs(driven, watch):
    study = driven()
    study.take()
    study.report(study.begin(), 10, elbo=-4.0)
    study.release()
    told = watch(study)
    assert (told["state"], told["states"]["running"], told["states"]["waiting"]) == ("interrupted", 0, 6)
    assert (told["under_way"], told["seconds_left"]) == ([], None)


def test_a_finished_study_with_confirmations(driven, watch):
    study = driven({"seeds": [0], "confirm": {"top": 1, "seeds": 2}})
    for elbo in (-3.0, -1.0, -2.0, -1.5, -2.5):
        study.train(elbo)
    told = watch(study)
    assert (told["state"], told["complete"], told["unread"]) == ("finished", 5, 0)
    assert [one["trial"] for one in told["best"]] == [1, 2, 0]
    best = told["best"][0]
    assert (best["values"], best["seeds"], best["confirmed"], best["confirmations"]) == ([-1.0], 1, [-2.0], 2)
    assert [one["trial"] for one in told["curves"]] == [1, 2, 0]


def test_the_best_trial_is_that_of_the_study_database(driven, watch):
    """The confirmed trial, although another one was better in the search."""
    study = driven({"seeds": [0], "confirm": {"top": 2, "seeds": 1}})
    for elbo in (-3.0, -1.0, -2.0, -4.0, -2.5):
        study.train(elbo)
    told = watch(study)
    assert [one.number for one in best_trials(study.study, study.records.runs("small"))] == [2]
    assert told["best_trial"] == {"trial": 2, "value": -2.5, "confirmed": True}
    assert [one["trial"] for one in told["best"]] == [2, 1, 0], "confirmed trials first, by their fresh seeds"


def test_the_front_of_a_search_for_two_metrics(driven, watch):
    also = {"valid/relaxation_bias": "minimize"}
    study = driven({"seeds": [0], "search": {"also": also}})
    for elbo, bias in ((-3.0, 0.5), (-1.0, 0.9), (-4.0, 0.6)):
        run = study.begin()
        study.search.finish(run.trial, run.seed, elbo, bias)
    told = watch(study)
    assert [(one["trial"], one["values"], one["front"]) for one in told["front"]] == [
        (1, [-1.0, 0.9], True),
        (0, [-3.0, 0.5], True),
        (2, [-4.0, 0.6], False),
    ]
    assert [one["metric"] for one in told["objectives"]] == ["valid/elbo", "valid/relaxation_bias"]


def test_infeasible_trials_are_no_best_and_marked(driven, watch):
    limit = {"valid/relaxation_bias": {"at_most": 0.6}}
    study = driven({"seeds": [0], "search": {"also": {"valid/kl": "minimize"}, "constraints": limit}})
    for elbo, bias, kl in ((-3.0, 0.5, 2.0), (-1.0, 0.9, 1.0), (-2.0, 0.6, 3.0)):
        run = study.begin()
        study.report(run, 20, elbo=elbo, relaxation_bias=bias, kl=kl)
        study.search.finish(run.trial, run.seed, elbo, kl, bias)
    told = watch(study)
    assert told["constraints"] == "valid/relaxation_bias at most 0.6"
    assert [(one["trial"], one["feasible"]) for one in told["best"]] == [(2, True), (0, True), (1, False)]
    assert [(one["trial"], one["front"]) for one in told["front"]] == [(2, True), (0, True), (1, False)]
    assert [(one["metric"], one["limit"]) for one in told["measured"]] == [
        ("valid/elbo", ""),
        ("valid/kl", ""),
        ("valid/relaxation_bias", "at most 0.6"),
    ]
    assert told["best"][0]["values"] == [-2.0, 3.0, 0.6]
    assert [one["settings"] for one in told["curves"]] == ["freebits 3.0", "freebits 1.0", "freebits 2.0 (infeasible)"]


def test_secrets_in_errors_are_not_shown(driven, watch):
    study = driven()
    run = study.begin()
    study.search.fail(run.trial, run.seed, "no answer from postgresql://me:secret@host/db")
    assert "secret" not in json.dumps(watch(study))


def test_a_study_that_was_deleted_and_made_again_begins_anew(driven, watch):
    study = driven({"seeds": [0]})
    study.train(-3.0, -2.0)
    assert watch(study)["curves"]
    study.records.forget("small")
    with pytest.raises(InputError, match="no study small"):
        watch(study)


def test_a_second_page_costs_nothing(driven):
    """Within a second it is told the same."""
    study, now = driven(), [0.0]
    live = Live(study.places, lambda: now[0])
    first = live.study("small")
    study.train(-3.0)
    assert live.study("small") is first
    now[0] += 2
    assert live.study("small")["complete"] == 1
    assert [one["complete"] for one in live.studies()] == [1]
