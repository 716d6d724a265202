from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hdvae_platform.inference import holm, significance


def test_the_test_is_paired_where_the_seeds_are_the_same():
    a, b = {0: 1.0, 1: 2.0, 2: 4.0}, {2: 1.0, 1: 0.5, 0: 0.0}
    assert significance(a, b) == pytest.approx(stats.ttest_rel([1, 2, 4], [0, 0.5, 1]).pvalue)
    expected = stats.ttest_ind([1, 2, 4], [1, 0.5], equal_var=False).pvalue
    assert significance(a, {5: 1.0, 6: 0.5}) == pytest.approx(expected)


def test_what_cannot_be_tested_has_no_p_value():
    assert significance({0: 1.0}, {0: 2.0}) is None
    assert significance({0: 1.0, 1: 2.0}, {5: 2.0}) is None
    assert significance({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}) is None
    assert significance({0: 0.0, 1: 0.0}, {5: 0.0, 6: 0.0}) is None


def test_holm_keeps_its_level_over_a_family_of_tests():
    """Of 4000 families of six true hypotheses, 5% have one rejected or more; uncorrected it would be 26%."""
    p = np.random.RandomState(0).uniform(size=(4000, 6))
    wrong = np.mean([min(holm(list(row))) < 0.05 for row in p])
    assert 0.04 < wrong < 0.06
    assert np.mean(p.min(axis=1) < 0.05) > 0.2
