"""The temperature of training: a schedule, or learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hdvae.network.model import HDVAE
from hdvae.network.wiring import Node


class LearnedTemperature(nn.Module):
    """One τ = floor + exp(ρ) for each layer of latent variables, with ρ a parameter.

    What it follows is the gradient of a relaxed ELBO (the paper proposes this as future work): the surrogate
    alone has no reason to prefer a low temperature, its Lipschitz bound has.

    Args:
        model: whose layers have temperatures.
        start: of every layer.
        floor: below every τ; start > floor > 0.
    """

    def __init__(self, model: HDVAE, start: float, floor: float) -> None:
        super().__init__()
        self.nodes, self.floor = model.nodes, floor
        self.rho = nn.Parameter(torch.full((len(model.nodes),), math.log(start - floor)))

    def tau(self) -> dict[Node, Tensor]:
        """τ by layer, 0-dim."""
        return dict(zip(self.nodes, self.floor + self.rho.exp(), strict=True))
