"""The scaled exponential integral F_a(x) = e^x E_a(x), tabulated (DLMF 8.19).

Sampled top-m reads (`hdvae.latents.top_m`) need it for the expected weight of the classes that they do not draw.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOWEST, HIGHEST, STEP = -36.0, 12.0, 0.25
"""The grid of log x on which log F_a is tabulated."""
SLACK = 2e-3
"""Bound of the relative error of the table. Its linear interpolation of log F_a, a concave function, is never above."""
NODES = 32
"""Number of nodes of the quadrature."""
CUT = 40.0
"""The quadrature ends where the integrand has fallen by a factor e^(−40)."""


@dataclass(frozen=True)
class ExponentialIntegral:
    """log F_a(x) with F_a(x) = e^x E_a(x) = ∫ e^(−xs) (1 + s)^(−a) ds, interpolated in log x (DLMF 8.19.2).

    Attributes:
        log_f_at: log F_a at the points of the grid.
    """

    log_f_at: Tensor

    @staticmethod
    def at(tau: float | Tensor, like: Tensor) -> ExponentialIntegral:
        """The table for a = 1/τ with the type and device of the tensor `like`; differentiable in τ."""
        if isinstance(tau, Tensor):
            return ExponentialIntegral(_log_f(_grid().to(like.device), 1 / tau.double()).to(like.dtype))
        return _cached_table(tau, like.dtype, like.device)

    def log_f(self, log_x: Tensor) -> Tensor:
        """Log F_a at log x, any shape. Beyond the grid, the value at its end is returned; for NaN, NaN."""
        place = ((log_x - LOWEST) / STEP).clamp_(0, len(self.log_f_at) - 1.001)
        below = place.nan_to_num(nan=0.0).long()
        left, right = self.log_f_at[below], self.log_f_at[below + 1]
        return torch.lerp(left, right, place - below)


@functools.lru_cache(maxsize=8)
def _cached_table(tau: float, dtype: torch.dtype, device: torch.device) -> ExponentialIntegral:
    return ExponentialIntegral(_log_f(_grid(), torch.tensor(1 / tau, dtype=torch.float64)).to(device, dtype))


@functools.cache
def _grid() -> Tensor:
    return torch.arange(LOWEST, HIGHEST + STEP, STEP, dtype=torch.float64)


@functools.cache
def _nodes() -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def _log_f(log_x: Tensor, a: Tensor) -> Tensor:
    """Log F_a at log x by quadrature over v = log(1 + s): ∫ exp(−x (e^v − 1) − (a − 1) v) dv, float64."""
    x = log_x.exp().unsqueeze(-1)
    end = torch.log1p(CUT / x)
    if a > 1:
        end = torch.minimum(end, CUT / (a.detach() - 1))
    nodes, weights = (part.to(x.device) for part in _nodes())
    v = nodes * end
    return ((-x * torch.expm1(v) - (a - 1) * v).exp() * weights * end).sum(-1).log()
