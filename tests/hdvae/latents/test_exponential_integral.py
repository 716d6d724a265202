"""The table of the scaled exponential integral against numerical integration."""

import itertools
import math

import pytest
import torch
from scipy.integrate import quad

from hdvae.latents.exponential_integral import HIGHEST, LOWEST, ExponentialIntegral


@pytest.mark.parametrize("a", [0.5, 1.0, 1.25, 2.0, 10.0, 20.0])
def test_table_is_the_exponential_integral(a):
    table = ExponentialIntegral.at(1 / a, torch.zeros((), dtype=torch.float64))
    for log_x in (-30.0, -11.3, -4.1, -1.02, 0.3, 1.9, 4.4):
        x = math.exp(log_x)
        end = min([math.log1p(50 / x)] + ([50 / (a - 1)] if a > 1 else []))
        pieces = torch.linspace(0, end, 41).tolist()
        exact = sum(
            quad(lambda v, x=x: math.exp(-x * math.expm1(v) - (a - 1) * v), low, high)[0]
            for low, high in itertools.pairwise(pieces)
        )
        got = table.log_f(torch.tensor(log_x, dtype=torch.float64)).item()
        assert math.log(exact) - 2e-3 < got < math.log(exact) + 1e-9, "interpolation is from below, and near"


def test_beyond_the_table_its_ends_hold():
    table = ExponentialIntegral.at(0.5, torch.zeros(()))
    got = table.log_f(torch.tensor([LOWEST - 50, LOWEST, HIGHEST, HIGHEST + 50]))
    assert got[0] == got[1]
    torch.testing.assert_close(got[2], got[3], atol=1e-2, rtol=0)
    torch.testing.assert_close(got[0], torch.tensor(0.0), atol=1e-3, rtol=0)  # F_2(0) = 1
