"""Perplexity and coverage of slots against uses that are known: `python -m benchmarks.slots` simulates more of them."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.slots import USES, covered, simulated, true_values
from hdvae.evaluation.slot_use import SlotUse, coverage, perplexity, poisson_limit, slot_metrics

SURE = 0.001
"""Probability with which a test may find fewer intervals right than it asks for, although they are as good as said."""
COUNTS = {2**8: 500, 2**12: 200, 2**16: 30, 2**20: 3}
"""Number of simulated uses of a memory; that of 2²⁰ slots takes a second for each."""


def enough(count, share):
    """The number of `count` intervals that must be right if a share of all is."""
    return stats.binom.ppf(SURE, count, share)


@pytest.mark.parametrize("use", ["uniform", "zipf"])
@pytest.mark.parametrize("slots", COUNTS)
def test_intervals_are_right_where_there_are_as_many_draws_as_slots(slots, use):
    count = COUNTS[slots]
    both, _ = covered(use, slots, slots, count)
    assert min(both.values()) >= enough(count, 0.93)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("slots", [2**12, 2**16, 2**20])
def test_lower_bounds_are_right_where_there_are_fewer_draws(slots, use):
    _, low = covered(use, slots, 2500, 100)
    assert min(low.values()) >= enough(100, 0.975)


def test_lower_bounds_say_more_than_the_number_of_draws():
    """2,500 draws of uniform use had a 'perplexity' of 2,428 of 65,536 slots and of 2,496 of 2²⁰."""
    rng = np.random.default_rng(0)
    for slots, least in ((65_536, 35_000), (2**20, 200_000)):
        found = perplexity(SlotUse.of_draws(rng.integers(slots, size=(500, 5)), slots))
        assert least < found.low < found.value <= found.high == slots


def test_where_every_slot_was_met_often_the_interval_is_narrow():
    rng = np.random.default_rng(0)
    law = stats.geom.pmf(np.arange(1, 17), 0.2)
    codes = rng.choice(16, p=law / law.sum(), size=(20_000, 1))
    found = perplexity(SlotUse.of_draws(codes, 16))
    expected = math.exp(stats.entropy(law))
    assert found.low < expected < found.high
    assert found.high - found.low < 0.03 * expected
    half = np.repeat(np.arange(8), 5000)[:, None]
    assert slot_metrics([SlotUse.of_draws(half, 16)])["perplexity"] == pytest.approx(8, rel=1e-3)
    share = coverage(SlotUse.of_draws(half, 16))
    assert (share.low, share.value, share.high) == (pytest.approx(7 / 16), 0.5, pytest.approx(0.5, abs=1e-3))


def test_the_draws_of_an_image_count_as_often_as_they_are_of_different_images():
    rng = np.random.default_rng(0)
    codes = rng.integers(64, size=(500, 1))
    once, five = (SlotUse.of_draws(np.repeat(codes, draws, 1), 64) for draws in (1, 5))
    np.testing.assert_allclose(once.met, five.met)
    assert perplexity(once).low == pytest.approx(perplexity(five).low)
    spread = SlotUse.of_draws(np.stack([np.arange(500) % 64, (np.arange(500) + 7) % 64], 1), 64)
    np.testing.assert_allclose(
        spread.met, np.bincount(np.concatenate([np.arange(500) % 64, (np.arange(500) + 7) % 64]))
    )


def test_posteriors_of_certain_classes_are_draws():
    rng = np.random.default_rng(0)
    codes = rng.integers(32, size=(100, 1))
    drawn, known = SlotUse.of_draws(codes, 32), SlotUse.of_posteriors(np.eye(32)[codes[:, 0]])
    for metric in (perplexity, coverage):
        assert metric(drawn) == pytest.approx(metric(known))


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("posterior", [False, True])
def test_intervals_are_right_where_the_draws_of_an_image_depend_on_each_other(spread, posterior):
    """Of 500 images, each of which uses four slots; the intervals are about the use by all images."""
    rng, slots, count, right = np.random.default_rng(0), 256, 100, {"perplexity": 0, "coverage": 0}
    for _ in range(count):
        law = USES["zipf"](slots, rng)
        four, shares = rng.choice(slots, p=law, size=(500, 4)), rng.dirichlet([spread] * 4, 500)
        if posterior:
            q = np.zeros((500, slots))
            np.add.at(q, (np.arange(500)[:, None], four), shares)
            use = SlotUse.of_posteriors(q)
        else:
            picked = (shares.cumsum(1)[:, None] < rng.random((500, 5, 1))).sum(-1).clip(max=3)
            use = SlotUse.of_draws(np.take_along_axis(four, picked, 1), slots)
        for name, metric in (("perplexity", perplexity), ("coverage", coverage)):
            found = metric(use)
            right[name] += found.low <= true_values(law)[name] <= found.high
    assert min(right.values()) >= enough(count, 0.95)


def test_q_itself_says_more_than_its_draws():
    """Where every image uses all slots alike, the use is known exactly."""
    q = np.full((50, 256), 1 / 256)
    found = perplexity(SlotUse.of_posteriors(q))
    assert (found.low, found.high) == (pytest.approx(256, rel=1e-3), pytest.approx(256, rel=0.02))
    drawn = perplexity(SlotUse.of_draws(np.random.default_rng(0).integers(256, size=(50, 5)), 256))
    assert drawn.low < 240


def test_one_image_shows_nothing_but_that_a_slot_is_used():
    found = perplexity(SlotUse.of_draws(np.zeros((1, 3), np.int64), 64))
    assert (found.low, found.high) == (1, 64)


def test_the_limit_of_a_poisson_variable():
    for count in (0, 1, 7, 400):
        assert stats.poisson.cdf(count, poisson_limit(count)) == pytest.approx(0.0125)


def test_simulated_uses_are_what_they_are_called():
    rng = np.random.default_rng(0)
    for law in (make(64, rng) for make in USES.values()):
        assert law.sum() == pytest.approx(1)
        codes = simulated(law, 50_000, rng)
        np.testing.assert_allclose(np.bincount(codes[:, 0], minlength=64) / 50_000, law, atol=0.01)
    assert true_values(USES["uniform"](64, rng)) == pytest.approx({"perplexity": 64, "coverage": 1})
