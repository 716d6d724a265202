"""What a study answers: the best trial or the front, with what was measured in the search and with fresh seeds."""

from __future__ import annotations

import json

import pytest

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.experiment.presets import PAPER
from hdvae_platform.analysis.answers import answer_in_words, answer_of, complete_of
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.comparison import Comparison
from hdvae_platform.analysis.comparison_text import as_text
from hdvae_platform.analysis.inference import interval
from hdvae_platform.store.records import Run
from hdvae_platform.study.study import Study

BIAS = "valid/relaxation_bias"


def study(**search):
    space = {"training.freebits": {"low": 0.1, "high": 9.0}}
    return parse(Study, {"name": "s", "claim": "c", "experiment": PAPER, "space": space, "search": search}, "study")


def runs(trial, values, kind="search", biases=None):
    """Complete runs of a trial, whose free bits are its number; with a pair of metrics where biases are given."""
    first = 0 if kind == "search" else 70
    for i, value in enumerate(values):
        also = {BIAS: biases[i]} if biases else {}
        run = Run(trial, first + i, "COMPLETE", 1, value, None, None, True, kind, also)
        yield run, {"training.freebits": float(trial)}


def test_the_best_trial_has_its_settings_values_and_handle():
    found = answer_of(
        study(),
        [*runs(1, [-100.0, -101.0]), *runs(2, [-99.0, -98.0]), *runs(1, [-102.0, -104.0, -106.0], "confirmation")],
        finished=True,
    )
    (best,) = found.best
    assert (best.handle, best.settings) == ("s/1/0", {"training.freebits": 1.0}), (
        "the confirmed one, though 2 looked better"
    )
    assert best.confirmed("valid/elbo") == interval([-102.0, -104.0, -106.0])
    text = answer_in_words(found)
    assert text.splitlines() == [
        "best: trial 1, freebits 1.0",
        "valid/elbo: -104.0 ± 5.0 confirmed by 3 fresh seeds; -100.5 ± 6.4 in the search, 2 seeds",
        "run: s/1/0",
    ]
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["best"][0]["metrics"]["valid/elbo"]["confirmed"]["values"] == [-102.0, -104.0, -106.0]


def test_what_is_not_confirmed_or_not_finished_says_so():
    found = answer_of(study(), list(runs(0, [-90.0])), finished=False)
    assert answer_in_words(found).splitlines()[:2] == [
        "best so far: trial 0, freebits 0.0",
        "valid/elbo: -90.00 in the search, 1 seed; not confirmed",
    ]
    assert answer_in_words(answer_of(study(), [], finished=False)) == ""
    with pytest.raises(InputError, match="has no complete trial yet"):
        answer_of(study(), [], finished=True).single()


def test_a_constrained_search_tells_the_value_that_was_limited_and_never_an_infeasible_best():
    limited = study(constraints={BIAS: {"at_most": 0.5}})
    trials = [*runs(1, [-90.0], biases=[0.9]), *runs(2, [-95.0], biases=[0.4]), *runs(3, [-99.0], biases=[0.1])]
    found = answer_of(limited, trials, finished=True)
    assert answer_in_words(found).splitlines() == [
        "best: trial 2, freebits 2.0",
        "valid/elbo: -95.00 in the search, 1 seed; not confirmed",
        "valid/relaxation_bias: 0.40 in the search, 1 seed; not confirmed; feasible, at most 0.5",
        "run: s/2/0",
        "",
        "2 of 3 complete trials keep valid/relaxation_bias at most 0.5",
    ]
    broken = [*trials, *runs(2, [-95.0, -96.0], "confirmation", biases=[0.6, 0.7])]
    assert answer_in_words(answer_of(limited, broken, finished=True)).startswith(
        "no best trial: study s has no feasible"
    )


def test_a_single_experiment_has_no_best_trial():
    lone = study().model_copy(update={"space": {}})
    assert answer_in_words(answer_of(lone, list(runs(0, [-90.0])), finished=True)) == ""


def test_a_front_has_all_its_metrics_and_a_trial_of_it_is_chosen_by_number():
    found = answer_of(
        study(also={BIAS: "minimize"}),
        [
            *runs(1, [-100.0, -102.0], biases=[0.5, 0.7]),
            *runs(2, [-95.0, -95.0], biases=[2.0, 2.0]),
            *runs(3, [-110.0, -110.0], biases=[1.0, 1.0]),
            *runs(2, [-97.0, -97.0], "confirmation", biases=[1.0, 2.0]),
        ],
        finished=True,
    )
    assert [one.trial.number for one in found.best] == [2, 1], "trial 3 is beaten by 1 in both"
    header, _, first, second = answer_in_words(found).splitlines()[1:]
    assert header.split() == ["run", "valid/elbo", "confirmed", BIAS, "confirmed", "settings"]
    assert first.split()[:3] == ["s/2/0", "-95.00", "±"]
    assert "1.5 ± 6.4" in first
    assert second.count("—") == 2
    with pytest.raises(InputError, match=r"several best trials: choose one by --trial, of 2, 1$"):
        found.single()


def test_any_complete_trial_is_found_by_its_number():
    trials = [*runs(1, [-90.0, -91.0]), *runs(2, [-95.0, -96.0])]
    assert complete_of(study(), trials, 2).handle == "s/2/0"
    assert complete_of(study(), trials, 2).settings == {"training.freebits": 2.0}
    with pytest.raises(InputError, match="study s has no complete trial 4"):
        complete_of(study(), trials, 4)


def test_a_comparison_of_several_studies_says_whose_answer_it_is():
    answers = [
        answer_of(study().model_copy(update={"name": name}), list(runs(0, [-9.0])), finished=True) for name in "ab"
    ]
    shown = as_text(Comparison(["a", "b"], [Arm({})], answers=answers))
    assert "study a\nbest: trial 0" in shown
    assert "study b\nbest: trial 0" in shown
    assert "study a" not in as_text(Comparison(["a"], [Arm({})], answers=answers[:1]))
