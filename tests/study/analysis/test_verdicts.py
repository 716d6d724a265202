"""Whether data support what a study expects of them: against simulated studies and SciPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from hdvae_platform.analysis import verdicts as of_verdicts
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.inference import LEVEL
from hdvae_platform.analysis.looks import Look
from hdvae_platform.analysis.verdicts import Verdict, overall
from hdvae_platform.study.expectation import Expectation
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import flattened

ELBO, BIAS = "valid/elbo", "valid/relaxation_bias"


def arm(settings, by_seed):
    """An arm with a metric's values by seed; of a bias, the signed ones."""
    runs = []
    for seed, values in enumerate(by_seed):
        metrics = {ELBO: values} if isinstance(values, float) else values
        tags = {"hdvae.seed": str(seed), "hdvae.arm": json.dumps(settings), "hdvae.study": "s", "hdvae.trial": "0"}
        params = {path: str(value) for path, value in flattened(settings).items()}
        runs.append(TrackedRun(f"{settings}-{seed}", "FINISHED", tags, params, metrics))
    return Arm(settings, runs)


def biased(bias):
    return {ELBO: -100.0, "valid/surrogate_elbo": -100.0 + bias, BIAS: abs(bias)}


def expect(**fields):
    return Expectation(**{"metric": ELBO, **fields})


def verdicts(expected, arms, number=1):
    """The verdicts, all at the look of this number."""
    return of_verdicts.verdicts(expected, arms, lambda *_: Look(number))


HIGHER = expect(higher={"a": 1}, than={"a": 2})
LOWER = expect(lower={"a": 1}, than={"a": 2})


def test_a_difference_supports_one_side_and_contradicts_the_other():
    first, second = [-10.0, -11.0, -9.5, -10.4], [-12.0, -13.5, -11.0, -12.9]
    arms = [arm({"a": 1}, first), arm({"a": 2}, second)]
    (higher,), (lower,) = verdicts([HIGHER], arms), verdicts([LOWER], arms)
    assert (higher.answer, lower.answer) == ("supported", "contradicted")
    tested = stats.ttest_rel(first, second)
    assert higher.p == lower.p == pytest.approx(tested.pvalue)
    assert higher.level == lower.level == LEVEL / 2, "of the first look"
    limits = tested.confidence_interval(1 - LEVEL / 2)
    assert (higher.difference.low, higher.difference.high) == pytest.approx((limits.low, limits.high))
    assert higher.why.startswith("difference +2.12, 97.5% interval [+1.")
    assert higher.why.endswith("], 4 pairs of seeds")
    assert higher.numbers.endswith("; p = 0.003, look 1, at level 2.5%"), higher.numbers
    assert overall([higher, lower]) == "contradicted"


@pytest.mark.parametrize("seeds", [1, 2])
def test_below_three_pairs_there_is_no_verdict_but_the_pairs_are_listed(seeds):
    """However clear they are: the spread of two pairs is hardly known."""
    arms = [arm({"a": 1}, [-10.0, -10.5][:seeds]), arm({"a": 2}, [-12.0, -12.51][:seeds])]
    looks = []
    (found,) = of_verdicts.verdicts([HIGHER], arms, lambda *one: looks.append(one))
    assert (found.answer, found.p, found.level, found.look, looks) == ("inconclusive", None, None, None, [])
    assert (found.difference.low, found.difference.high) == (None, None)
    listed = ["1 pair of seeds (seed 0: -10.00 against -12.00", "; seed 1: -10.50 against -12.51"]
    assert "".join(listed[:seeds]).replace("1 pair", "1 pair" if seeds == 1 else "2 pairs") in found.numbers
    assert found.numbers.endswith("; a verdict needs 3 pairs")


def test_below_three_seeds_in_an_arm_that_shares_none():
    arms = [arm({"a": 1}, [-10.0, -10.5, -10.2]), arm({"a": 2}, [-12.0, -12.51])]
    for run in arms[1].runs:
        run.tags["hdvae.seed"] = str(run.seed + 7)
    (found,) = verdicts([HIGHER], arms)
    assert (found.answer, found.p) == ("inconclusive", None)
    assert "3 and 2 seeds, unpaired (seed 0: -10.00 against —; " in found.numbers


def test_a_trend_of_two_seeds_has_no_verdict():
    arms = [arm({"n": n}, [1.0 * n, 1.1 * n]) for n in range(8)]
    (found,) = verdicts([expect(grows_with="n")], arms)
    assert (found.answer, found.p) == ("inconclusive", None)
    assert found.numbers.endswith("(seeds 0, 1); a verdict needs 3")


def test_the_answer_is_that_of_the_interval_shown():
    """Of every kind of expectation, at every look, with Holm's correction."""
    random, answers = np.random.default_rng(5), set()
    expected = [
        HIGHER,
        expect(equal={"a": 1}, to={"a": 2}, within=1.0),
        expect(metric=BIAS, lower={"a": 1}, than={"a": 2}),
    ]
    for number in [1, 2, 7] * 100:
        means = random.normal(0, 2, (2, 1)), random.normal(0, 2, (2, 1))
        elbos, biases = (mean + random.normal(0, 0.5, (2, 4)) for mean in means)
        of_both = [*zip(elbos[0], biases[0], strict=True)], [*zip(elbos[1], biases[1], strict=True)]
        values = [
            [{**biased(bias), ELBO: elbo, "valid/surrogate_elbo": elbo + bias} for elbo, bias in one] for one in of_both
        ]
        order, equal, size = found = verdicts(expected, [arm({"a": a}, values[a - 1]) for a in (1, 2)], number)
        for one in (order, size):
            excludes = one.difference.low > 0 or one.difference.high < 0
            assert (one.answer != "inconclusive") == excludes == (one.p < one.level)
            assert one.answer == "inconclusive" or (one.answer == "supported") == (one.difference.mean > 0) ^ (
                one is size
            )
        inside = equal.difference.low > -1 and equal.difference.high < 1
        beyond = equal.difference.low > 1 or equal.difference.high < -1
        assert equal.answer == ("supported" if inside else "contradicted" if beyond else "inconclusive")
        assert all(one.level <= LEVEL / (number * (number + 1)) for one in found)
        answers |= {(place, one.answer) for place, one in enumerate(found)}
    assert len(answers) == 9, "every answer of every kind occurs"


def test_what_could_not_be_tested_is_inconclusive_and_says_why():
    one_seed = [arm({"a": 1}, [-10.0]), arm({"a": 2}, [-12.0])]
    (found,) = verdicts([HIGHER], one_seed[:1])
    assert (found.answer, found.why) == ("inconclusive", "no complete run with a 2 has valid/elbo")
    (found,) = verdicts([expect(grows_with="a")], one_seed[:1])
    assert (found.answer, found.why) == (
        "inconclusive",
        "a: all runs have the value 1 there, so there is no trend to test",
    )


def test_only_other_settings_that_both_groups_have_are_compared():
    """Of a = 1 there is b = 3 too, which is better by far: that says nothing of a."""
    arms = [arm({"a": 1, "b": 3}, [0.0, 0.1, 0.2])]
    arms += [arm({"a": a, "b": b}, [-10.0 - a - b, -11.0 - a, -9.0 - a + b / 9]) for a in (1, 2) for b in (1, 2)]
    (found,) = verdicts([HIGHER], arms)
    assert found.difference.mean == pytest.approx(1.0)
    assert (
        "3 pairs of seeds, averaged over 2 combinations of the other settings; not tested: it is the same" in found.why
    )
    (found,) = verdicts([HIGHER], [arms[0], arms[3]])
    assert found.why == "no arm of the one group has the same other settings as an arm of the other group"


def test_arms_are_averaged_over_a_setting_that_one_group_alone_has():
    """As the temperature of discrete models, which are compared with Gaussian ones."""
    normal, discrete = [-10.0, -11.0, -9.5], [-12.0, -13.5, -11.0]
    arms = [arm({"latent": "normal"}, normal)]
    arms += [arm({"latent": "discrete", "tau": tau}, [one - tau for one in discrete]) for tau in (0.1, 0.3)]
    (found,) = verdicts([expect(higher={"latent": "normal"}, than={"latent": "discrete"})], arms)
    assert found.difference.mean == pytest.approx(np.mean(normal) - np.mean(discrete) + 0.2)
    assert found.p == pytest.approx(stats.ttest_rel(normal, np.array(discrete) - 0.2).pvalue)


def test_all_arms_of_a_side_count_in_whatever_order_they_come():
    arms = [arm({"a": a, "b": b}, [10.0 * b - a, 10.0 * b - a + 0.1 * b, 10.0 * b - a]) for a in (1, 2) for b in (1, 2)]
    ways = [expect(higher={"a": 1}, than={"a": 2, "b": 2})]
    (found,), (again,) = verdicts(ways, arms), verdicts(ways, arms[::-1])
    assert found.difference == again.difference
    assert found.difference.mean == pytest.approx((9 + 0.1 / 3 + 19 + 0.2 / 3) / 2 - 18 - 0.2 / 3)


def test_an_arm_in_both_groups_is_refused():
    arms = [arm({"a": a, "b": b}, [1.0 * a, 2.0 * b]) for a in (1, 2) for b in (1, 2)]
    (found,) = verdicts([expect(higher={"a": 1}, than={"b": 2})], arms)
    assert (found.answer, found.why) == ("inconclusive", "the arm with a 1, b 2 belongs to both groups")


def test_settings_that_lack_seeds_take_none_from_the_others():
    def study(cut):
        values = {(a, b): [b - a + 0.01 * seed * a for seed in range(4)] for a in (1, 2) for b in (1, 2, 3)}
        arms = [arm({"a": a, "b": b}, found) for (a, b), found in values.items()]
        arms[-1] = cut(arms[-1])
        return verdicts([HIGHER], arms)[0]

    whole = study(lambda one: one)
    assert (whole.answer, "left out" in whole.why) == ("supported", False)
    fewer = study(lambda one: Arm(one.settings, one.runs[:1]))
    assert fewer.answer == "supported"
    assert fewer.why.endswith(
        "averaged over 2 combinations of the other settings (1 left out because seeds are missing there)"
    )
    foreign = study(lambda one: Arm(one.settings, []))
    assert foreign.why.endswith("averaged over 2 combinations of the other settings"), "an arm without runs is none"
    (none,) = verdicts(
        [expect(metric=BIAS, higher={"a": 1}, than={"a": 2})],
        [
            arm({"a": 1, "b": 1}, [biased(0.1)]),
            arm({"a": 1, "b": 2}, [-1.0]),
            arm({"a": 2, "b": 1}, [-1.0]),
            arm({"a": 2, "b": 2}, [biased(0.1)]),
        ],
    )
    assert none.why == "no seed has valid/relaxation_bias in all arms that would be compared"


def test_equality_is_two_one_sided_tests():
    first = np.random.default_rng(0).normal(-10, 0.3, 8)
    second = first + np.array([0.1, -0.1] * 4)
    arms = [arm({"a": 1}, first.tolist()), arm({"a": 2}, second.tolist())]
    (near,) = verdicts([expect(equal={"a": 1}, to={"a": 2}, within=1.0)], arms)
    sides = [
        stats.ttest_rel(first + 1.0, second, alternative="greater").pvalue,
        stats.ttest_rel(first - 1.0, second, alternative="less").pvalue,
    ]
    assert (near.answer, near.p) == ("supported", pytest.approx(2 * max(sides)))
    (close,) = verdicts([expect(equal={"a": 1}, to={"a": 2}, within=0.01)], arms)
    assert close.answer == "inconclusive"
    far = [arm({"a": 1}, (first + 5).tolist()), arm({"a": 2}, second.tolist())]
    (apart,) = verdicts([expect(equal={"a": 1}, to={"a": 2}, within=1.0)], far)
    assert apart.answer == "contradicted"
    assert apart.p == pytest.approx(2 * stats.ttest_rel(first + 4.0, second, alternative="greater").pvalue)


def test_a_trend_is_tested_with_seeds_as_units():
    """Depths are blocks: those of a seed are not independent."""
    random = np.random.default_rng(1)
    arms = [
        arm({"n": n, "depth": depth}, [biased(0.1 * n + depth + random.normal(0, 0.01)) for _ in range(4)])
        for depth in (1, 2)
        for n in (1, 2, 4)
    ]
    grows, falls = verdicts([expect(metric=BIAS, grows_with="n"), expect(metric=BIAS, falls_with="n")], arms)
    assert (grows.answer, falls.answer) == ("supported", "contradicted")
    assert grows.expected == "valid/relaxation_bias grows with n"
    assert "8 blocks of 4 seeds; with whole seeds as units p = 0.0015" in grows.why
    assert grows.p == pytest.approx(2 / 6**4), "four seeds in order, in either direction"
    assert (grows.difference, grows.level) == (None, LEVEL / 2 / 2), "a test of ranks has no interval"


def test_several_expectations_are_corrected_for_their_number():
    """Four times nothing: any verdict at all, in either direction, in no more than the level of the first look."""
    random, studies, wrong = np.random.default_rng(2), 400, 0
    expected = [
        HIGHER,
        expect(higher={"a": 1}, than={"a": 3}),
        expect(lower={"a": 2}, than={"a": 3}),
        expect(grows_with="a"),
    ]
    for _ in range(studies):
        arms = [arm({"a": a}, random.normal(-10, 1, 5).tolist()) for a in (1, 2, 3)]
        wrong += any(one.answer != "inconclusive" for one in verdicts(expected, arms))
    assert wrong / studies < LEVEL / 2 + 3 * np.sqrt(LEVEL / 2 / studies)


def test_noise_in_a_bias_is_not_more_bias():
    """|δ| of noise in one arm against an exact 0."""
    noise = [biased(one) for one in (0.031, -0.029, 0.03, -0.032, 0.028)]
    (found,) = verdicts(
        [expect(metric=BIAS, higher={"a": 1}, than={"a": 2})], [arm({"a": 1}, noise), arm({"a": 2}, [biased(0.0)] * 5)]
    )
    assert found.answer == "inconclusive"
    assert found.p > 0.2


def test_a_claim_needs_all_its_expectations():
    def of(answer):
        return Verdict("", answer, "")

    assert overall([of("supported"), of("supported")]) == "supported"
    assert overall([of("supported"), of("inconclusive")]) == "inconclusive"
    assert overall([of("inconclusive"), of("contradicted")]) == "contradicted"
