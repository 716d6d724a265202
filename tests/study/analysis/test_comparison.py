from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hdvae.errors import InputError
from hdvae_platform.analysis.arms import names_of
from hdvae_platform.analysis.arms_from_mlflow import read_arms
from hdvae_platform.analysis.compare import compare as answer
from hdvae_platform.analysis.comparison import Comparison, Question
from hdvae_platform.analysis.comparison_text import arm_table, as_markdown, as_text, confirmation_table
from hdvae_platform.analysis.confirmation import confirmations
from hdvae_platform.analysis.inference import Interval, difference, interval
from hdvae_platform.analysis.labels import arm_names, arm_names_note, label
from hdvae_platform.analysis.run_settings import Condition
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Tag, flattened


def run(arm: str, seed: int, state: str = "COMPLETE", tags=(), params=(), **metrics: float) -> TrackedRun:
    own = {"hdvae.arm": arm, "hdvae.trial": "0", "hdvae.seed": str(seed), "hdvae.state": state, "hdvae.study": "s"}
    own |= {"hdvae.kind": "run"}
    values = {name if "/" in name else f"valid/{name}": value for name, value in metrics.items()}
    flat = {path: json.dumps(value) for path, value in flattened(json.loads(arm)).items()}
    params = {"model.width": "8", "model.latent": "normal", **flat, **dict(params)}
    return TrackedRun(f"{arm}-{seed}", "FINISHED", {**own, **dict(tags)}, params, values)


def of_trial(trial: int) -> dict[str, str]:
    return {Tag.TRIAL: str(trial)}


class Store:
    """What a comparison asks of MLflow, with runs at hand."""

    address = "memory"

    def __init__(self, *runs: TrackedRun) -> None:
        self.runs = runs

    def find(self, tags):
        return (run for run in self.runs if tags.items() <= run.tags.items())

    def read_file(self, run_id, name):
        return None


def arms(*runs, by=()):
    return read_arms(Store(*runs), ["s"], by)


def compare(*runs, **asked):
    return answer(Store(*runs), Question(["s"], **asked))


def test_interval_is_students():
    values = list(np.random.RandomState(0).normal(size=7))
    found = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(values))
    assert interval([3.0]) == Interval(3.0, None, None)


def test_intervals_cover_what_they_claim():
    random = np.random.RandomState(1)
    hits = [i.low <= 2.0 <= i.high for i in (interval(random.normal(2, 3, size=3)) for _ in range(4000))]
    assert 0.935 < np.mean(hits) < 0.965


@pytest.mark.parametrize(
    ("trials", "names", "note"),
    [
        ([[("s", 3)], [("s", 10)]], ["3", "10"], "Arms are numbered by their trials."),
        ([[("s", 3)], [("t", 3)]], ["s/3", "t/3"], "Arms are named STUDY/TRIAL, by their trials."),
        (
            [[("s", 1), ("s", 0)], [("s", trial) for trial in range(2, 10)]],
            ["A", "B"],
            "A letter names an arm that pools several trials: A: trials 0, 1; B: trials 2, 3, 4, 5, 6, 7 and 2 more.",
        ),
        (
            [[("s", 0)], [("s", 0)], [("s", 4)]],
            ["A", "B", "4"],
            "Arms are numbered by their trials. A letter names an arm that pools several trials or is a part of one: "
            "A: trial 0; B: trial 0.",
        ),
        (
            [[("s", 0), ("s", 2)], [("t", 1)]],
            ["A", "t/1"],
            "Arms are named STUDY/TRIAL, by their trials. A letter names an arm that pools several trials: "
            "A: trials s/0, s/2.",
        ),
    ],
)
def test_arms_have_the_names_of_their_trials_or_letters(trials, names, note):
    assert arm_names(trials) == names
    assert arm_names_note(names, trials) == note
    assert len(set(arm_names([[("s", 0), ("s", 1)]] * 1000))) == 1000


def test_an_arm_has_the_number_of_its_trial_in_every_form():
    """Trial 0 failed: the arms that are compared are trials 2 and 5, not 1 and 2."""
    arms_of = {2: '{"a": 1}', 5: '{"a": 2}'}
    runs = [run(arm, seed, tags=of_trial(trial), elbo=-1.0 - seed) for trial, arm in arms_of.items() for seed in (0, 1)]
    found = compare(*runs, metrics=["valid/elbo"])
    assert names_of(found.arms) == ["2", "5"]
    for text in (as_text(found), as_markdown(found, "")):
        assert "(2) a 1" in text
        assert "(2) − (5)" in text
        assert "Arms are numbered by their trials." in text
    assert "(5) a 2" in arm_table(found.arms)
    plain = found.plain()
    assert [(one["name"], one["handles"]) for one in plain["arms"]] == [
        ("2", ["s/2/0", "s/2/1"]),
        ("5", ["s/5/0", "s/5/1"]),
    ]
    assert [(one["a_name"], one["b_name"]) for one in plain["differences"]] == [("2", "5")]
    pooled = compare(*runs, by=["model.width"])
    assert "(A) width 8" in as_text(pooled)
    assert "A: trials 2, 5." in as_text(pooled)


def test_differences_are_paired_where_the_seeds_are_the_same():
    a, b = {0: 1.0, 1: 2.0, 2: 4.0}, {2: 1.0, 1: 0.5, 0: 0.0}
    apart = difference(a, b)
    value = apart.interval()
    expected = stats.ttest_rel([1, 2, 4], [0, 0.5, 1]).confidence_interval(0.95)
    assert apart.paired
    assert (value.low, value.high) == pytest.approx((expected.low, expected.high))
    apart = difference(a, {5: 1.0, 6: 0.5})
    value = apart.interval()
    expected = stats.ttest_ind([1, 2, 4], [1, 0.5], equal_var=False).confidence_interval(0.95)
    assert not apart.paired
    assert (value.low, value.high) == pytest.approx((expected.low, expected.high))
    assert difference({}, b) is None
    one_seed = difference({0: 1.0}, {1: 0.5})
    assert (one_seed.interval(), one_seed.p, one_seed.paired) == (Interval(0.5, None, None), None, False)


def test_only_complete_runs_enter_means():
    found = compare(
        run("{}", 0, elbo=-1.0),
        run("{}", 1, "FAIL", elbo=-9.0),
        run("{}", 2, "PRUNED", elbo=-9.0),
        run("{}", 3, "WAITING"),
        all_metrics=True,
    )
    (arm,) = found.arms
    assert (len(arm.runs), arm.failed, arm.pruned) == (1, 1, 1)
    shown = found.plain()["arms"][0]
    assert shown["metrics"]["valid/elbo"] == {"mean": -1.0, "low": None, "high": None, "values": [-1.0]}
    assert "1 + 1 pruned + 1 failed" in arm_table(found.arms)


def test_values_are_in_the_order_of_the_seeds():
    found = arms(run("{}", 1, elbo=-2.0), run("{}", 0, elbo=-1.0))
    assert found[0].seeds == [0, 1]
    assert found[0].values("valid/elbo") == [-1.0, -2.0]


def test_a_metric_that_some_runs_lack_has_a_caveat():
    found = arms(run("{}", 0, elbo=-1.0), run("{}", 1))
    assert "-1.00 of 1" in arm_table(found, ["valid/elbo"])
    assert "—" in arm_table(found, ["valid/kl"])


def test_grouping_by_a_setting():
    runs = (run('{"a": 1}', 0, elbo=-1.0), run('{"a": 2}', 0, elbo=-2.0))
    assert [arm.settings for arm in arms(*runs)] == [{"a": 1}, {"a": 2}]
    assert [arm.settings for arm in arms(*runs, by=["model.width"])] == [{"model.width": 8}]
    assert arms(*runs, by=["model.width"])[0].by_seed("valid/elbo") == {0: -1.5}
    with pytest.raises(InputError, match=r"did you mean 'model\.width'"):
        arms(*runs, by=["model.widht"])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("a=1", [0]), ("a<2", [0]), ("a<=2", [0, 1]), ("a>1", [1, 2]), ("a>=3", [2]), ("model.a>2", [2]), ("b>1", [])],
)
def test_conditions_on_settings(text, seeds):
    """The end of a path is enough; a setting that is no number is neither above nor below one."""
    runs = [run(json.dumps({"model.a": seed + 1, "training.b": "x"}), seed) for seed in range(3)]
    condition = Condition.parsed(text, "--where")
    assert [one.seed for one in runs if condition.holds(one)] == seeds


def test_the_end_of_a_path_must_name_one_setting_that_varies():
    runs = [run('{"model.layers.0.classes": 4, "model.layers.1.classes": 9, "model.width": 2}', 0)]
    assert arms(*runs, by=["width"])[0].settings == {"width": 2}
    assert arms(*runs, by=["0.classes"])[0].settings == {"0.classes": 4}
    with pytest.raises(InputError, match=r"--by classes: which of model.layers.0.classes, model.layers.1.classes\?"):
        arms(*runs, by=["classes"])


def test_nothing_to_compare():
    with pytest.raises(InputError, match="no run of s is complete"):
        arms(run("{}", 0, "FAIL"))
    with pytest.raises(InputError, match="no study t in MLflow"):
        read_arms(Store(), ["t"])


def test_of_many_metrics_some_are_named():
    store = Store(run("{}", 0, **{f"kl/layer_{layer}": 1.0 for layer in range(100)}))
    with pytest.raises(InputError, match=r"valid/zzz; known: .*layer_26 and 80 more$"):
        read_arms(store, ["s"], required=["valid/zzz"])


def test_labels_are_short_and_distinct():
    arm = {"model.layers.0.classes": 4, "model.layers.1.classes": 9, "training.temperature": 0.1}
    assert label(arm) == "layers.0.classes 4, layers.1.classes 9, temperature 0.1"
    assert label({"model.layers.0.classes": 4}) == "layers.0.classes 4", "another layer may have others"
    assert label({}) == "the experiment"


def test_labels_of_different_arms_differ():
    """Where schedules begin at other steps, where rounding hides it, and where a value is text."""
    sets = [
        {"training.temperature": [[0, 0.5], [15, 0.1]]},
        {"training.temperature": [[10, 0.5], [15, 0.1]]},
        {"training.temperature": 0.5},
        {"training.temperature": [[0, 0.5]]},
        {"training.temperature": "0.5"},
        {"training.temperature": 0.0005038057452790046},
        {"training.temperature": 0.0005038057452790047},
        {"training.temperature": 0.8758367117627629},
    ]
    found = compare(
        *(run(json.dumps(one), 0, tags=of_trial(trial), elbo=-float(trial)) for trial, one in enumerate(sets))
    )
    labels = [row.split("  ")[0] for row in arm_table(found.arms, ["valid/elbo"]).splitlines()[2:10]]
    assert len(set(labels)) == len(sets)
    assert labels[:2] == ["(0) temperature 0.5→0.1 at 15", "(1) temperature 0.5 at 10→0.1 at 15"]
    assert labels[-1] == "(7) temperature 0.8758"
    assert "| (0) − (1) | +1.00 |" in as_markdown(found, "hdvae compare s --format md", everything=True)


def test_many_inconclusive_differences_are_folded():
    """Six arms: fifteen pairs, of which those with the last arm are clear."""
    random = np.random.RandomState(0)
    runs = [
        run(json.dumps({"k": k}), seed, tags=of_trial(k), elbo=random.normal() + 100 * (k == 5), iw_elbo=0.0)
        for k in range(6)
        for seed in range(4)
    ]
    found = compare(*runs, metrics=["valid/elbo"])
    for show in (as_text, lambda *asked: as_markdown(asked[0], "", *asked[1:])):
        rows = [line for line in show(found).splitlines() if ") − (" in line]
        assert [line.split("(")[2][:2] for line in rows] == ["5)"] * 5
        assert "10 of 15 differences in valid/elbo are inconclusive (show them with --all)" in show(found)
        assert len([line for line in show(found, True).splitlines() if ") − (" in line]) == 15
        assert "--all" not in show(found, True)
    single = as_text(compare(*(one for one in runs if one.seed == 0), metrics=["valid/elbo"]))
    assert "15 differences in valid/elbo are not tested: a test needs two seeds in each arm (show" in single
    assert "95% over seeds" not in single, "what no table has needs no legend"


def test_bias_is_shown_with_its_error_over_images():
    found = arms(
        run("{}", 0, relaxation_bias=1.0, relaxation_bias_se=0.3),
        run("{}", 1, relaxation_bias=2.0, relaxation_bias_se=0.4),
    )
    text = arm_table(found)
    half = stats.t.ppf(0.975, 1) * 0.5
    assert f"1.5 ± {half:.1f} (se 0.35)" in text, "half of the 95% interval over seeds"
    assert "mean ± half of the 95% interval over seeds (Student's t); (se …)" in text
    assert "one seed" not in text


def test_use_of_slots_that_the_images_do_not_show_is_at_least_something():
    """Where the upper limit is all slots, in every run: K = 256 for the perplexity, 1 for the coverage."""

    def shown(metric, *highs):
        name = f"valid/{metric}"
        values = [
            {f"{name}/layer_2": 40.0, f"{name}_low/layer_2": 31.0, f"{name}_high/layer_2": high} for high in highs
        ]
        runs = [run('{"model.layers.1.classes": 256}', seed, **own) for seed, own in enumerate(values)]
        return arm_table(compare(*runs, metrics=[f"{name}/layer_2"]).arms, [f"{name}/layer_2"])

    assert "at least 31" in shown("perplexity", 256.0, 256.0)
    assert "40.00 ± 0.00" in shown("perplexity", 256.0, 255.0)
    assert "at least 31" in shown("coverage", 1.0, 1.0)
    assert "at least" not in shown("coverage", 0.9, 1.0)


@pytest.mark.parametrize("show", [arm_table, lambda found: as_text(Comparison(["s"], found))], ids=["run", "compare"])
def test_one_seed_has_its_standard_error_over_images_and_says_so(show):
    found = arms(
        run("{}", 0, elbo=-1.0, elbo_se=0.3, surrogate_elbo=-2.0, relaxation_bias=1.0, relaxation_bias_se=0.25),
    )
    text = show(found)
    assert "-1.00 ± 0.30*" in text
    assert "1.00 ± 0.25*" in text
    assert "* one seed: ± one standard error over images" in text
    assert " -2.00 " in text, "without an error there is no ±"


def test_markdown_has_intervals_and_differences():
    runs = [run('{"k": "a"}', seed, tags=of_trial(0), elbo=-10.0 - seed) for seed in range(3)]
    runs.append(run('{"k": "b|c"}', 0, tags=of_trial(1), elbo=-9.0))
    page = as_markdown(compare(*runs, metrics=["valid/elbo"]), "hdvae compare s --format md")
    limits = interval([-10.0, -11.0, -12.0])
    assert f"| (0) k a | 3 | -11.0 ± {limits.high - limits.mean:.1f} |" in page
    assert "| (1) k b\\|c | 1 | -9.00 |" in page
    assert "| (0) − (1) | -2.00 |" in page
    assert "`hdvae compare s --format md`" in page
    assert "| difference in valid/elbo | mean | 95% over seeds | p | p, Holm | seeds |" in page
    assert page.count("|---|---:|") == 2


def confirmable(kind, trial, seed, value, state="COMPLETE", **more):
    tags = {"hdvae.study": "s", "hdvae.kind": kind, "hdvae.trial": str(trial), "hdvae.seed": str(seed), **more}
    tags |= {"hdvae.state": state, "hdvae.arm": f'{{"a": {trial}}}'}
    return TrackedRun(f"{kind}-{trial}-{seed}", "FINISHED", tags, {}, {"valid/elbo": value})


def searched(direction="maximize"):
    """The study's own run."""
    tags = {"hdvae.study": "s", "hdvae.kind": "study"}
    return TrackedRun("p", "FINISHED", tags, {"metric": "valid/elbo", "direction": direction}, {})


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_confirmations_stand_beside_the_value_of_the_search(direction, sign):
    parent = searched(direction)
    store = Store(
        parent,
        confirmable("run", 0, 0, -10.0),
        confirmable("run", 1, 0, -11.0),
        confirmable("run", 1, 1, -5.0),
        confirmable("run", 1, 2, -500.0, "PRUNED"),
        *(confirmable("confirmation", 1, seed, -9.0 - seed) for seed in (7, 8, 9)),
        confirmable("confirmation", 0, 7, -12.0),
        confirmable("confirmation", 0, 8, -99.0, "FAIL"),
    )
    found = confirmations(store, ["s"])
    assert [one.trial for one in found] == ([1, 0] if sign > 0 else [0, 1])
    one = found[0 if sign > 0 else 1]
    assert (one.search, one.seeds, one.values) == (-8.0, [7, 8, 9], [-16.0, -17.0, -18.0])
    assert one.shrinkage == sign * 9.0
    assert one.confirmed == interval([-16.0, -17.0, -18.0])
    assert one.plain()["confirmed"]["values"] == one.values
    shown = confirmation_table(found)
    assert "-8.00" in shown
    assert f"{sign * 9.0:+.2f}" in shown
    assert confirmations(Store(parent), ["s"]) == []
    assert confirmation_table([]) == ""


def test_confirmations_that_were_lost_are_counted_and_never_averaged():
    """A failed one, one without a finite value, and one of other code than the search."""
    other = {"hdvae.version": "2", "hdvae.sources": "f" * 64}
    found = compare(
        searched(),
        confirmable("run", 0, 0, -10.0),
        confirmable("run", 0, 1, math.nan),
        confirmable("confirmation", 0, 7, -9.0, **other),
        confirmable("confirmation", 0, 8, math.nan, **other),
        confirmable("confirmation", 0, 9, -9.0, "FAIL", **other),
    )
    (one,) = found.confirmations
    assert (one.search, one.values, one.lost, one.confirmed.mean) == (-10.0, [-9.0], 2, -9.0)
    assert "1 + 2 without a value" in confirmation_table(found.confirmations)
    assert "confirmations: 2 runs with fresh seeds ended without a finite value and are left out" in found.caveats
    assert any(
        caveat.startswith("mixed code: 2 runs with an unknown version; 1 run with hdvae 2") for caveat in found.caveats
    )


def test_a_winner_whose_confirmations_were_all_lost_is_still_shown():
    found = compare(
        searched(),
        confirmable("run", 0, 0, -10.0),
        confirmable("run", 1, 0, -11.0),
        *(confirmable("confirmation", 0, seed, -9.0, "FAIL") for seed in (7, 8)),
        confirmable("confirmation", 1, 7, -12.0),
        confirmable("confirmation", 1, 8, -12.0, "RUNNING"),
        confirmable("confirmation", 1, 9, -12.0, "WAITING"),
    )
    lost, other = found.confirmations
    assert (lost.trial, lost.values, lost.lost, lost.confirmed, lost.shrinkage) == (0, [], 2, None, None)
    assert (other.values, other.lost, other.unfinished) == ([-12.0], 0, 2)
    assert "0 + 2 without a value" in confirmation_table(found.confirmations)
    caveats = [caveat for caveat in found.caveats if caveat.startswith("confirmations: ")]
    assert caveats == [
        "confirmations: 2 runs with fresh seeds ended without a finite value and are left out",
        "confirmations: 2 runs with fresh seeds had not ended and are left out",
    ]
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))["confirmations"]
    assert [(one["confirmed"] is None, one["unfinished"]) for one in plain] == [(True, 0), (False, 2)]


def test_a_metric_that_an_arm_cannot_have_is_not_missing_from_its_runs():
    """A Gaussian has no perplexity; that hides no run that lost one."""
    discrete = [run('{"a": 1}', seed, elbo=-1.0 - seed, perplexity=3.0) for seed in range(3)]
    normal = [run('{"a": 2}', seed, elbo=-2.0 - seed) for seed in range(3)]
    caveats = compare(*discrete, *normal, all_metrics=True).caveats
    assert caveats == ["not measured: 1 of 2 arms has no value of valid/perplexity"]
    lost = run('{"a": 1}', 3, elbo=-4.0)
    caveats = compare(*discrete, lost, *normal, all_metrics=True).caveats
    assert "missing: valid/perplexity in 1 of 7 runs; its means leave these runs out" in caveats


def test_infinite_and_huge_values_are_no_numbers_of_a_table():
    """A certified bound can be infinite. JSON has no infinity, and columns have an end."""
    found = compare(
        *(run('{"k": 1}', seed, elbo=-1.0 - seed, lipschitz_bound=math.inf) for seed in range(2)),
        *(run('{"k": 2}', seed, elbo=-3.0 - seed, lipschitz_bound=10.0**160 * (1 + seed)) for seed in range(4, 7)),
        all_metrics=True,
    )
    text = json.dumps(found.plain(), allow_nan=False)
    assert "valid/lipschitz_bound" not in json.loads(text)["arms"][0]["metrics"]
    assert "not finite: valid/lipschitz_bound in 2 of 5 runs; its means leave these runs out" in found.caveats
    shown = compare(*found.arms[1].runs, metrics=["valid/lipschitz_bound"])
    assert max(map(len, as_text(shown).splitlines())) < 120


def test_an_average_over_more_steps_than_training_has_is_a_caveat():
    settings = {"training.ema": "0.9999", "training.steps": "1500"}
    (caveat,) = compare(*(run('{"a": 1}', seed, params=settings, elbo=-1.0) for seed in range(2))).caveats
    assert caveat.startswith("ema: training.ema 0.9999 averages over about 10,000 steps, but training has 1,500: ")
    enough = {**settings, "training.steps": "30000"}
    assert compare(*(run('{"a": 1}', seed, params=enough, elbo=-1.0) for seed in range(2))).caveats == []
    varied = [
        run(json.dumps({"training.ema": ema}), 0, params={"training.steps": "1500"}, elbo=-1.0) for ema in (0.9, 0.9999)
    ]
    assert [caveat[:24] for caveat in compare(*varied).caveats] == ["ema: training.ema 0.9999"]


def test_what_an_arm_pools_is_said():
    """By `a`, b is pooled: where arms have other b's, what looks like a's is b's."""
    alike = [run(json.dumps({"a": a, "b": b}), seed, elbo=-10.0 * b) for a in (1, 2) for b in (1, 2) for seed in (0, 1)]
    caveat, few = compare(*alike, by=["a"]).caveats
    assert few.startswith("two seeds: with two pairs of seeds an interval and its p rest on one degree of freedom")
    assert caveat == "pooled: 2 of 2 arms average several parameter sets for each seed; these differ in b"
    uneven = [one for one in alike if json.loads(one.tags["hdvae.arm"]) != {"a": 1, "b": 1}]
    pooled, confounded, _ = compare(*uneven, by=["a"]).caveats
    assert pooled.startswith("pooled: 1 of 2 arms average several parameter sets")
    assert confounded == (
        "confounded: the arms also differ in b, so their differences may come from there: "
        "select runs with the same values by --where"
    )
    one_seed_each = [run('{"a": 1, "b": 1}', 0, elbo=-1.0), run('{"a": 1, "b": 2}', 1, elbo=-50.0)]
    caveats = compare(*one_seed_each, by=["a"]).caveats
    assert [caveat.partition(":")[0] for caveat in caveats] == ["pooled", "pooled unevenly"]
    assert compare(*alike).caveats == [few], "once for all pairs of arms"
    assert compare(*alike, *(replace(one, tags={**one.tags, Tag.SEED: "2"}) for one in alike[::2])).caveats == []


def test_a_setting_that_means_nothing_in_an_arm_confounds_nothing():
    runs = [run('{"latent": "normal"}', seed, elbo=-1.0) for seed in (0, 1)]
    runs += [run(json.dumps({"latent": "x", "tau": tau}), seed, elbo=-2.0) for tau in (0.1, 0.5) for seed in (0, 1)]
    assert [caveat.partition(":")[0] for caveat in compare(*runs, by=["latent"]).caveats] == ["pooled", "two seeds"]


def test_test_images_that_were_measured_differently_have_a_caveat():
    """What `hdvae evaluate` was asked for is no setting of the run."""
    ways = [{"draws": 1, "kappa": "local"}, {"draws": 10, "kappa": "certified"}]
    runs = [
        run(json.dumps({"a": a}), 0, tags={Tag.TEST_MEASURED: json.dumps(way)}, **{"elbo": -1.0, "test/elbo": -1.0})
        for a, way in enumerate(ways)
    ]
    assert compare(*runs).caveats == []
    for found in (compare(*runs, metrics=["test/elbo"]), compare(*runs, all_metrics=True)):
        assert "measured differently: runs differ in draws on test images: 1, 10" in found.caveats
        assert 'measured differently: runs differ in kappa on test images: "certified", "local"' in found.caveats
        assert any(caveat.startswith("test images: use test/elbo for final numbers only") for caveat in found.caveats)


def test_only_differences_that_are_withheld_are_missed():
    many = [run(json.dumps({"a": a}), seed, elbo=-a - seed / 7) for a in range(14) for seed in (0, 1)]
    (caveat,) = compare(*many).caveats
    assert caveat == "many: differences are left out with more than 12 arms: use --by, --where or --against"
    against = compare(*many, against={"a": 3})
    assert (len(against.differences), [one[:9] for one in against.caveats]) == (2 * 13 - 13, ["two seeds"])
    assert compare(*many, trend="a", metrics=["valid/elbo"]).caveats == []


def test_trials_that_do_not_keep_the_constraints_are_marked():
    """By their means over the seeds, a pruned one by its last report; confirmed ones by their fresh seeds."""

    def one(kind, trial, seed, kl, state="COMPLETE"):
        made = confirmable(kind, trial, seed, -10.0 - trial, state)
        return replace(made, params={"model.width": "8"}, metrics={**made.metrics, "valid/kl": kl})

    parent = replace(searched(), params={**searched().params, "constraints.valid/kl.at_most": "1.0"})
    runs = [
        *(one("run", 0, seed, kl) for seed, kl in enumerate((0.5, 1.7))),
        *(one("run", 1, seed, kl) for seed, kl in enumerate((0.9, 1.1))),
        one("run", 2, 0, 1.5, "PRUNED"),
        one("run", 3, 0, 0.5, "RUNNING"),
        one("confirmation", 1, 7, 1.25),
    ]
    found = compare(parent, *runs)
    assert [arm["feasible"] for arm in found.plain()["arms"]] == [False, True, False, None]
    assert [confirmed["feasible"] for confirmed in found.plain()["confirmations"]] == [False, False]
    assert [(one.title, one.confirmed.mean, one.shrinkage is None) for one in found.confirmations] == [
        ("valid/elbo", -11.0, False),
        ("valid/kl, at most 1", 1.25, True),
    ]
    shown = as_text(found)
    assert re.findall(r"\((\d)\) a \d \(infeasible\)", shown) == ["0", "2"]
    assert "trial 1: a 1 (infeasible)" in shown
    pooled = answer(Store(parent, *runs), Question(["s"], by=["model.width"]))
    assert [arm.feasible for arm in pooled.arms] == [None]
    free = compare(searched(), *runs)
    assert "infeasible" not in as_text(free)
    assert [arm.feasible for arm in free.arms] == [None] * 4
