from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hdvae_platform.study.constraints import Limits, excesses, in_words, is_feasible

KL = {"valid/kl": Limits(at_most=3.0, at_least=1.0)}


@given(st.floats(-10, 10))
def test_a_trial_is_feasible_within_its_limits_and_on_them(value):
    assert is_feasible(KL, {"valid/kl": value}) == (1.0 <= value <= 3.0)
    beyond = excesses(KL, {"valid/kl": value, "valid/elbo": math.nan})
    assert beyond == {"valid/kl at most 3": value - 3, "valid/kl at least 1": 1 - value}


def test_what_is_not_finite_or_missing_is_beyond_every_limit():
    for values in ({"valid/kl": math.nan}, {"valid/kl": -math.inf}, {"valid/kl": math.inf}, {}):
        assert not is_feasible(KL, values)
        assert set(excesses(KL, values).values()) == {math.inf}
    assert is_feasible({}, {})
    assert in_words(KL) == "valid/kl at most 3 and at least 1"
