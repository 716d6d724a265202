"""Adamax that updates only the rows of a memory that were read.

Source: Kingma and Ba 2014, "Adam: a method for stochastic optimization", algorithm 2. A parameter with a sparse
gradient has moments and a step count for every row; what was not read in a step is left as it is, moments and all.
Where every row is read in every step this is Adamax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hdvae.slots import fetch, rows_of

CACHED = 2**17
"""Numbers of a parameter that are moved at a time: so many, with moments and gradients, stay in a core's cache."""
Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


class RowAdamax(torch.optim.Adamax):
    """Adamax, row by row for parameters (N, K, D) whose gradients are coalesced sparse tensors."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters, foreach=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter by its gradient."""
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    sparse.append((parameter, parameter.grad))
                    _update_rows(parameter, parameter.grad, self.state[parameter], group)
                    parameter.grad = None  # what is below knows nothing of rows
        result: float | None = super().step(closure)
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return result


def _update_rows(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """One step of Adamax for the rows (n, k) that have a gradient, with the bias correction of each."""
    if not state:
        n, k, d = parameter.shape
        # Both moments of a row lie side by side: fetching rows that no cache holds is what a step costs.
        state["row_moments"] = parameter.new_zeros(n, k, 2 * d)
        state["row_step"] = torch.zeros(n, k, dtype=torch.int32, device=parameter.device)
    tables = [table.flatten(0, 1) for table in (parameter, state["row_moments"], state["row_step"].unsqueeze(-1))]
    most = max(1, CACHED // parameter.shape[-1])
    for rows, g in zip(torch.split(rows_of(gradient), most), torch.split(gradient.values(), most), strict=True):
        _move(tables, rows, g, group)


def _move(tables: Sequence[Tensor], rows: Tensor, g: Tensor, group: dict[str, Any]) -> None:
    """Move some rows (R,) of values, moments and step counts by their gradient (R, D)."""
    values, moments, steps = (fetch(tables[0], rows), fetch(tables[1], rows), tables[2].index_select(0, rows).add_(1))
    beta, decay = group["betas"]
    average, largest = moments.chunk(2, -1)
    average.mul_(beta).add_(g, alpha=1 - beta)
    torch.maximum(largest.mul_(decay), g.abs().add_(group["eps"]), out=largest)
    rate = -group["lr"] / (1 - beta ** steps.to(g.dtype))
    values.addcmul_(average / largest, rate)
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
