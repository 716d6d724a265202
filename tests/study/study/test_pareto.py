from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hdvae_platform.study.pareto import is_dominated

SCORES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8)


@given(SCORES)
def test_a_trial_is_dominated_by_another_that_is_nowhere_worse_and_somewhere_better(scores):
    table = np.array(scores)
    for own in scores:
        better = ((table >= own).all(1) & (table > own).any(1)).any()
        assert is_dominated(own, scores) == bool(better)


def test_equal_trials_do_not_dominate_each_other():
    assert not is_dominated((1.0, 2.0), [(1.0, 2.0), (1.0, 2.0)])
