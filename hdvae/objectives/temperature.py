"""Temperatures that are learned during training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hdvae.network.model import HDVAE
from hdvae.network.wiring import Node


class LearnedTemperature(nn.Module):
    """One τ = floor + exp(ρ) for each layer of latent variables, with a trained parameter ρ.

    ρ is trained with the gradient of a relaxed ELBO (future work in the paper): the surrogate alone does not prefer
    low temperatures; its Lipschitz bound does.

    Args:
        model: the model whose layers get temperatures.
        start: initial τ of every layer.
        floor: lower limit of every τ; start > floor > 0.
    """

    def __init__(self, model: HDVAE, start: float, floor: float) -> None:
        super().__init__()
        self.nodes, self.floor = model.nodes, floor
        self.rho = nn.Parameter(torch.full((len(model.nodes),), math.log(start - floor)))

    def tau(self) -> dict[Node, Tensor]:
        """τ of each layer, 0-dim tensors."""
        return dict(zip(self.nodes, self.floor + self.rho.exp(), strict=True))
