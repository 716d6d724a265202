"""Adamax, row by row where a step reads some rows of a memory only.

Source: Kingma and Ba 2014, "Adam: a method for stochastic optimization", algorithm 2. A parameter with a sparse
gradient has moments and a step count for every row; what was not read in a step is left as it is, moments and all.
Where every row is read in every step this is Adamax.

It is not torch's own, which imports torch's compiler with the first parameter that it is given: that takes every
process that trains more than two seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdvae.latents.sparse_reads import fetch, rows_of

BETA, DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Of the mean of gradients, and of the largest of them; what keeps that above 0."""
CACHED = 2**17
"""Numbers of a parameter that are moved at a time: so many, with moments and gradients, stay in a core's cache."""


@dataclass
class Group:
    """Parameters that have a learning rate in common, which may change from step to step."""

    parameters: Sequence[nn.Parameter]
    rate: float


class Adamax:
    """Adamax, row by row for parameters (N, K, D) whose gradients are coalesced sparse tensors.

    Attributes:
        groups: what is moved, and how fast.
        state: what is kept of each parameter that had a gradient, by name. Of a dense one `average` and `largest`, of
            its shape, and `step`, 0-dim on the CPU; of rows `row_moments`, (N, K, 2 D), and `row_step`, (N, K).
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def forget_gradients(self) -> None:
        """Before a step's own gradients are made."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient by it."""
        for group in self.groups:
            dense: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
            for parameter in group.parameters:
                if parameter.grad is None:
                    continue
                state = self.state.setdefault(parameter, {})
                if parameter.grad.is_sparse:
                    _update_rows(parameter, parameter.grad, state, group.rate)
                else:
                    dense.append((parameter, parameter.grad, state))
            if dense:
                _update(dense, group.rate)


def _update(moved: Sequence[tuple[Tensor, Tensor, dict[str, Tensor]]], rate: float) -> None:
    """One step of Adamax for parameters with dense gradients and their states."""
    for parameter, _, state in moved:
        if not state:
            state.update(average=torch.zeros_like(parameter), largest=torch.zeros_like(parameter), step=torch.tensor(0))
        state["step"] += 1
    parameters = [parameter for parameter, _, _ in moved]
    gradients = [gradient for _, gradient, _ in moved]
    averages, largest = ([state[name] for _, _, state in moved] for name in ("average", "largest"))
    torch._foreach_lerp_(averages, gradients, 1 - BETA)
    torch._foreach_mul_(largest, DECAY)
    sizes = torch._foreach_abs(gradients)
    torch._foreach_add_(sizes, EPSILON)
    torch._foreach_maximum_(largest, sizes)
    rates = [-rate / (1 - BETA ** int(state["step"])) for _, _, state in moved]
    torch._foreach_addcdiv_(parameters, averages, largest, rates)


def _update_rows(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], rate: float) -> None:
    """One step of Adamax for the rows (n, k) that have a gradient, with the bias correction of each."""
    if not state:
        n, k, d = parameter.shape
        # Both moments of a row lie side by side: fetching rows that no cache holds is what a step costs.
        state["row_moments"] = parameter.new_zeros(n, k, 2 * d)
        state["row_step"] = torch.zeros(n, k, dtype=torch.int32, device=parameter.device)
    tables = [table.flatten(0, 1) for table in (parameter, state["row_moments"], state["row_step"].unsqueeze(-1))]
    most = max(1, CACHED // parameter.shape[-1])
    for rows, g in zip(torch.split(rows_of(gradient), most), torch.split(gradient.values(), most), strict=True):
        _move(tables, rows, g, rate)


def _move(tables: Sequence[Tensor], rows: Tensor, g: Tensor, rate: float) -> None:
    """Move some rows (R,) of values, moments and step counts by their gradient (R, D)."""
    values, moments, steps = (fetch(tables[0], rows), fetch(tables[1], rows), tables[2].index_select(0, rows).add_(1))
    average, largest = moments.chunk(2, -1)
    average.mul_(BETA).add_(g, alpha=1 - BETA)
    torch.maximum(largest.mul_(DECAY), g.abs().add_(EPSILON), out=largest)
    values.addcmul_(average / largest, -rate / (1 - BETA ** steps.to(g.dtype)))
    for table, new in zip(tables, (values, moments, steps), strict=True):
        table.index_copy_(0, rows, new)


def entries(gradient: Tensor) -> Tensor:
    """The numbers of a gradient, dense, or sparse and coalesced: a tensor that shares its memory."""
    return gradient.values() if gradient.is_sparse else gradient


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Norm of all gradients together, 0-dim."""
    return torch.nn.utils.get_total_norm([entries(gradient) for gradient in gradients])


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, norm: Tensor) -> None:
    """Scale all gradients, whose norm is given, so that it is at most `most`."""
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([entries(p.grad) for p in parameters if p.grad is not None], scale)
