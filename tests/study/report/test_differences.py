"""Differences between the arms of a report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hdvae_platform.analysis.differences import MAX_ARMS_IN_PAIRS
from hdvae_platform.analysis.inference import Interval, error_bars, interval
from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.report.page import html
from tests.study.helpers.report_contents import biased, contents, drawn_again, unfinished, widths


def test_every_pair_is_tested_and_of_many_arms_each_against_the_best():
    few = widths(4, seeds=3)
    found = few.differences(ELBO)
    assert [one.first.name + one.second.name for one in found] == ["01", "02", "03", "12", "13", "23"]
    assert found[0].significant
    higher, lower, mean, low, high = found[0].upward
    assert (higher.name, lower.name) == ("1", "0")
    assert low < mean < high
    assert mean == pytest.approx(1.01)
    many = widths(MAX_ARMS_IN_PAIRS + 1, seeds=3).differences(ELBO)
    assert {one.first.place for one in many} == {MAX_ARMS_IN_PAIRS}
    assert len(many) == MAX_ARMS_IN_PAIRS
    same = widths(MAX_ARMS_IN_PAIRS + 1, seeds=3).differences(BIAS)
    assert {one.first.place for one in same} == {MAX_ARMS_IN_PAIRS}, "not the best by the study's metric"


def test_noise_in_a_bias_is_not_significant():
    """|δ| of about 0.03 in every seed against exactly 0, but of changing sign."""
    noise = (0.031, -0.029, 0.03, -0.032, 0.028)
    numbers = [[{**biased(-100.0, one), BIAS: abs(one)} for one in noise], [biased(-100.0, 0.0)] * len(noise)]
    (found,) = contents(
        {"model.width": {"choices": [1, 2]}}, [{"model.width": 1}, {"model.width": 2}], numbers
    ).differences(BIAS)
    assert found.adjusted > 0.5


def test_with_one_seed_nothing_is_significant():
    found = widths(3, seeds=1)
    assert not any(one.significant for one in found.differences(ELBO))
    page = html(found, [])
    assert "No difference could be tested" in page
    assert "<strong>one seed</strong>: every arm was trained with one seed, so differences between arms" in page


def test_differences_say_by_how_many_seeds_they_are_paired():
    """The means in the table of arms are −4.00 and −3.25; by the seeds that both have, the difference is +1.25."""
    found = unfinished()
    (one,) = found.differences(ELBO)
    assert (one.paired, one.seeds, one.interval.mean) == (True, 2, pytest.approx(1.25))
    page = html(found, [])
    assert "<small>2 of 3 seeds paired</small>" in page
    assert "seeds paired" not in html(widths(3), [])
    assert "the arms do not have the same seeds" in page
    assert "the arms do not have the same seeds" not in html(widths(3), [])
    assert "share more than half of each one" in page


def test_copies_of_a_run_add_no_seed():
    sets = [{"model.width": 8}, {"model.width": 16}]
    numbers = [[{ELBO: -100.0, BIAS: 1.0}, {ELBO: -110.0, BIAS: 2.0}], [{ELBO: -90.0, BIAS: 1.0}]]
    arms = drawn_again(sets, numbers).arms
    assert len(arms[0].values(ELBO)) == 4
    assert arms[0].interval(ELBO) == interval([-100.0, -110.0])
    assert arms[1].interval(ELBO) == Interval(-90.0, None, None), "one seed, however often"
    half = pytest.approx(interval([1.0, 2.0]).high - 1.5)
    assert error_bars([arm.interval(BIAS) for arm in arms]) == ([half, 0.0], [half, 0.0])


def test_of_arms_that_are_all_the_same_none_is_significant_however_many():
    """The best of many is best by luck: it is compared with all others, and Holm's correction counts every pair."""
    random, studies = np.random.default_rng(0), 0
    for _ in range(100):
        values = random.normal(size=(30, 1)) * 0 + random.normal(size=(30, 5)) - 100
        sets = [{"model.width": i + 1} for i in range(30)]
        numbers = [[{ELBO: value} for value in row] for row in values.tolist()]
        space = {"model.width": {"low": 1, "high": 99}}
        found = contents(space, sets, numbers, search={"method": "random", "trials": 30})
        studies += any(one.significant for one in found.differences(ELBO))
    assert studies <= 10, "5 of 100 are expected at most"


def test_each_metric_says_whether_all_its_pairs_are_tested():
    """Thirteen arms have an ELBO, the best of them no bias: twelve have one, and all of their pairs are tested."""
    found = widths(MAX_ARMS_IN_PAIRS + 1)
    (best,) = (arm for arm in found.arms if arm.place == MAX_ARMS_IN_PAIRS)
    best.arm.runs[:] = [replace(run, metrics={ELBO: run.metrics[ELBO]}) for run in best.arm.runs]
    assert (len(found.differences(ELBO)), len(found.differences(BIAS))) == (
        MAX_ARMS_IN_PAIRS,
        MAX_ARMS_IN_PAIRS * (MAX_ARMS_IN_PAIRS - 1) // 2,
    )
    page = html(found, [])
    assert page.count("each is compared only with the best one") == 1
