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

from hdvae.slots import rows_of

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
        state["exp_avg"], state["exp_inf"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["row_step"] = torch.zeros(parameter.shape[:2], dtype=torch.int32, device=parameter.device)
    beta, decay = group["betas"]
    rows, g = rows_of(gradient), gradient.values()
    tables = [table.flatten(0, 1) for table in (state["row_step"].unsqueeze(-1), state["exp_avg"], state["exp_inf"])]
    steps, average, largest = (table.index_select(0, rows) for table in tables)
    steps += 1
    average.lerp_(g, 1 - beta)
    torch.maximum(largest.mul_(decay), g.abs().add_(group["eps"]), out=largest)
    for table, new in zip(tables, (steps, average, largest), strict=True):
        table.index_copy_(0, rows, new)
    rate = -group["lr"] / (1 - beta ** steps.to(g.dtype))
    values = parameter.flatten(0, 1)
    values.index_copy_(0, rows, values.index_select(0, rows).add_(average.div_(largest).mul_(rate)))


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
