"""The statistics of comparisons against known truth, SciPy and statsmodels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hdvae.errors import InputError
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.blocks import Block
from hdvae_platform.analysis.differences import over_seeds
from hdvae_platform.analysis.inference import difference, holm, size_difference
from hdvae_platform.analysis.rank_tests import MAX_ORDERS, jonckheere, permutation_p, rank_test
from hdvae_platform.analysis.trends import trend
from hdvae_platform.tracking.client import TrackedRun

STUDIES = 3000


def simulated(random, seeds=5, effect=1.5, shared=3.0, own=1.0):
    """Two arms whose seeds share what makes them differ most."""
    both = random.normal(0, shared, seeds)
    a, b = (both + mean + random.normal(0, own, seeds) for mean in (effect, 0.0))
    return dict(enumerate(a)), dict(enumerate(b))


def test_paired_intervals_cover_the_effect_and_are_narrower_by_the_known_factor():
    random, hits, widths = np.random.default_rng(0), 0, []
    for _ in range(STUDIES):
        a, b = simulated(random)
        apart = difference(a, b)
        value, welch = apart.interval(), difference(a, {seed + 100: x for seed, x in b.items()}).interval()
        assert apart.paired
        hits += value.low <= 1.5 <= value.high
        widths.append(((welch.high - welch.low) ** 2, (value.high - value.low) ** 2))
    assert 0.93 < hits / STUDIES < 0.97
    t = stats.t.ppf(0.975, [8, 4])
    known = np.sqrt(10) * t[0] / t[1]  # standard deviations √(3² + 1²) against 1, and degrees of freedom
    assert np.sqrt(np.divide(*np.mean(widths, axis=0))) == pytest.approx(known, rel=0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_tests_keep_their_level_and_are_scipys(paired):
    random, p_values = np.random.default_rng(1), []
    for _ in range(STUDIES):
        a, b = simulated(random, effect=0.0, shared=3.0 if paired else 0.0)
        b = b if paired else {seed + 100: x for seed, x in b.items()}
        p_values.append(difference(a, b).p)
    assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.07
    x, y = list(a.values()), list(b.values())
    expected = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
    assert p_values[-1] == pytest.approx(expected.pvalue)


BIAS = "valid/relaxation_bias"


def biased(name, values):
    """An arm of a run for each seed with such a signed bias, under the metrics that an evaluation logs."""
    runs = []
    for seed, value in enumerate(values):
        metrics = {"valid/elbo": -100.0, "valid/surrogate_elbo": -100.0 + value, BIAS: abs(value)}
        tags = {"hdvae.trial": "0", "hdvae.seed": str(seed)}
        runs.append(TrackedRun(f"{name}-{seed}", "FINISHED", tags, {}, metrics))
    return Arm({"name": name}, runs)


@pytest.mark.parametrize(("mean", "noise", "other"), [(0.0, 0.0, 0.0), (0.0, 0.01, 0.0), (1.0, 0.03, -1.0)])
def test_noise_in_a_bias_is_no_difference(mean, noise, other):
    """Of arms whose |δ| is the same: without a bias against exactly 0, on less noise, and of opposite signs."""
    random, found = np.random.default_rng(6), []
    for _ in range(400):
        a, b = random.normal(mean, 0.03, 5), random.normal(other, noise, 5)
        found.append(over_seeds(biased("a", a), biased("b", b), BIAS))
    assert np.mean([one.p < 0.05 for one in found]) < 0.08
    assert np.mean([one.value.low <= 0 <= one.value.high for one in found]) > 0.92


def test_biases_of_clear_signs_differ_by_their_sizes():
    random = np.random.default_rng(7)
    a, b = -3.0 + random.normal(0, 0.1, 5), 1.0 + random.normal(0, 0.1, 5)
    found = over_seeds(biased("a", a), biased("b", b), BIAS)
    apart = difference(dict(enumerate(-a)), dict(enumerate(b)))
    value = apart.interval()
    assert (found.value.mean, found.value.low, found.value.high) == pytest.approx((value.mean, value.low, value.high))
    assert found.p == pytest.approx(apart.p)
    assert found.p < 1e-4


@pytest.mark.parametrize("seed", range(20))
def test_the_difference_of_sizes_covers_all_differences_and_sums_in_their_intervals(seed):
    """Against a grid over both intervals."""
    random = np.random.default_rng(seed)
    a, b = (dict(enumerate(random.normal(mean, 1, 5))) for mean in random.normal(0, 1.5, 2))
    found = size_difference(a, b)
    d, s = (np.linspace(one.interval().low, one.interval().high, 401) for one in (found.d, found.s))
    sizes = np.abs((s[:, None] + d) / 2) - np.abs((s[:, None] - d) / 2)
    step = (d[1] - d[0]) + (s[1] - s[0])
    value = found.interval()
    assert (value.low, value.high) == pytest.approx((sizes.min(), sizes.max()), abs=step)
    assert found.mean == pytest.approx(abs(np.mean(list(a.values()))) - abs(np.mean(list(b.values()))))
    assert (found.p < 0.05) == (value.low > 0 or value.high < 0)


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(2).uniform(0, 0.1, 12)
    assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([None, 0.02]) == [None, 0.02]


def test_most_seeds_must_be_shared_to_be_paired():
    a = {0: 1.0, 1: 2.0, 2: 3.0}
    assert difference(a, {0: 0.0, 1: 0.5}).paired
    assert not difference(a, {0: 0.0, 7: 0.5}).paired


def test_jonckheere_of_one_block_is_kendalls_test():
    row = np.random.default_rng(3).normal(size=7)
    found = jonckheere([row])
    for side, p in (("greater", found.increasing), ("less", found.decreasing)):
        assert p == pytest.approx(stats.kendalltau(range(7), row, alternative=side, method="exact").pvalue)


def test_jonckheere_of_incomplete_blocks_by_enumeration():
    rows = [[1.0, 3.0, 2.0], [5.0, 9.0], [0.0, 1.0, 3.0]]
    found = jonckheere(rows)

    def pairs(some):
        return sum(b > a for row in some for a, b in itertools.combinations(row, 2))

    law = [pairs(some) for some in itertools.product(*(itertools.permutations(row) for row in rows))]
    assert found.increasing == pytest.approx(np.mean(np.array(law) >= pairs(rows)))
    assert found.decreasing == pytest.approx(np.mean(np.array(law) <= pairs(rows)))


def test_tied_blocks_keep_the_level():
    random = np.random.default_rng(4)
    p_values = np.array([jonckheere(random.integers(0, 3, (6, 4)).tolist()).p("two-sided") for _ in range(STUDIES)])
    assert 0.02 < np.mean(p_values < 0.05) < 0.07
    assert jonckheere([[1.0, 1.0]]).p("two-sided") == 1.0


def test_complete_blocks_are_pages():
    table = np.random.default_rng(5).normal(size=(4, 5)) + np.arange(5)
    found = rank_test(table.tolist())
    assert found.name == "page"
    assert found.increasing == pytest.approx(stats.page_trend_test(table).pvalue)
    assert found.decreasing == pytest.approx(stats.page_trend_test(table[:, ::-1]).pvalue)


def test_a_trend_is_fitted_free_of_the_heights_of_incomplete_blocks():
    blocks = [Block(0, {1.0: 0.0, 2.0: 1.0}), Block(0, {2.0: 101.0, 4.0: 100.5}), Block(1, {1.0: 50.0, 4.0: 50.5})]
    found = trend([*blocks, Block(1, {2.0: 7.0})], "n", "m", "increasing")
    assert np.diff(found.means) == pytest.approx([1.0, -0.5])
    assert found.fitted[1] == pytest.approx(found.fitted[2])
    assert (len(found.blocks), found.left_out, found.test.name) == (3, 1, "jonckheere")
    assert found.change.mean == pytest.approx(0.5)
    with pytest.raises(InputError, match="no two runs with m differ in this setting alone"):
        trend([Block(0, {1.0: 0.0})], "n", "m")
    with pytest.raises(InputError, match="cannot be compared"):
        trend([Block(0, {1.0: 0.0, 2.0: 1.0}), Block(0, {3.0: 0.0, 4.0: 1.0})], "n", "m")


def test_a_block_without_an_order_is_left_out():
    """A Gaussian's bias is 0 at every level: it says nothing of a trend, and would make ties of an exact test."""
    rising = [Block(seed, {1.0: 0.1, 2.0: 0.2, 4.0: 0.3}) for seed in range(3)]
    flat = [Block(seed, {1.0: 0.0, 2.0: 0.0, 4.0: 0.0}) for seed in range(3)]
    found, alone = trend([*rising, *flat], "n", "m", "increasing"), trend(rising, "n", "m", "increasing")
    assert (found.p, found.test.exact, found.constant) == (alone.p, True, 3)
    assert found.means == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="m is the same at every level"):
        trend(flat, "n", "m")


def seed_permutation_p(blocks, direction):
    seeds = sorted({block.seed for block in blocks})
    return permutation_p([[block.values for block in blocks if block.seed == seed] for seed in seeds], direction)


def test_permuting_whole_seeds_by_enumeration():
    """Two seeds, one with two blocks of which one is incomplete."""
    blocks = [Block(0, {1.0: 0.0, 2.0: 3.0, 3.0: 2.0}), Block(0, {1.0: 9.0, 3.0: 9.0}), Block(1, {1.0: 5.0, 2.0: 6.0})]

    def statistic(orders):
        total = 0.0
        for block in blocks:
            row = [block.values[level] for level in orders[block.seed] if level in block.values]
            total += sum((b > a) + (b == a) / 2 for a, b in itertools.combinations(row, 2))
        return total

    every = itertools.product(itertools.permutations((1.0, 2.0, 3.0)), itertools.permutations((1.0, 2.0)))
    law = np.array([statistic(orders) for orders in every])
    up, down = np.mean(law >= statistic([(1, 2, 3), (1, 2)])), np.mean(law <= statistic([(1, 2, 3), (1, 2)]))
    assert seed_permutation_p(blocks, "increasing") == pytest.approx(up)
    assert seed_permutation_p(blocks, "decreasing") == pytest.approx(down)
    assert seed_permutation_p(blocks, "two-sided") == pytest.approx(min(1.0, 2 * min(up, down)))


def test_a_trend_keeps_its_level_where_blocks_of_a_seed_go_together():
    """Three seeds of four blocks that share what a seed does at a level: whole seeds keep the level, blocks do not."""
    random, found = np.random.default_rng(6), []
    for _ in range(400):
        shared, own = random.normal(size=(3, 1, 4)), random.normal(size=(3, 4, 4))
        rows = np.sqrt(0.8) * shared + np.sqrt(0.2) * own
        blocks = [Block(seed, dict(enumerate(row.tolist()))) for seed in range(3) for row in rows[seed]]
        one = trend(blocks, "n", "m")
        found.append((one.p < 0.05, one.p_by_seed < 0.05))
    by_block, by_seed = np.mean(found, axis=0)
    assert by_block > 0.15
    assert by_seed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_many_levels_are_permuted_as_often_as_few():
    blocks = [Block(seed, {float(level): level + shift for level in range(9)}) for seed in range(2) for shift in (0, 5)]
    assert seed_permutation_p(blocks, "increasing") == pytest.approx(1 / MAX_ORDERS**2)


def test_differences_without_spread_are_quietly_certain(recwarn):
    """SciPy warns of a loss of precision, with the path of a file, for what is nearly the same in all seeds."""
    a = {seed: 1.0 + 1e-14 * seed for seed in range(5)}
    p = difference(a, dict.fromkeys(range(5), 0.0)).p
    assert p < 1e-30
    apart = {seed + 9: 2.0 + 1e-14 * seed for seed in range(4)}
    found = difference(a, apart)
    assert (found.mean, found.paired) == (pytest.approx(-1.0), False)
    assert found.interval().high - found.interval().low < 1e-12
    assert found.p < 1e-20
    for first in (0, 5):
        alike = difference(dict.fromkeys(range(3), 1.0), dict.fromkeys(range(first, first + 3), 2.0))
        assert (alike.p, alike.interval().low) == (None, None), "a spread that is not known has no interval"
    assert not recwarn.list
    random = np.random.default_rng(8).normal(size=(2, 6))
    a, b = (dict(enumerate(row.tolist())) for row in random)
    assert difference(a, b).p == pytest.approx(stats.ttest_rel(*random).pvalue)


def test_holm_over_hypotheses_that_were_not_tested():
    """Of six that could have been, the two that look best: as if the others had p-values of 1."""
    expected = multipletests([0.004, 0.02, 1, 1, 1, 1], method="holm")[1][:2]
    assert holm([0.004, 0.02], hypotheses=6) == pytest.approx(expected.tolist())
