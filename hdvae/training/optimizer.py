"""Adamax, which updates a memory row by row if a step reads only some of its rows.

Source: Kingma and Ba 2014, "Adam: a method for stochastic optimization", algorithm 2. A parameter with a sparse
gradient has moments and a step count for every row. Rows without a gradient in a step, and their moments, do not
change. If every row has a gradient in every step, this is the usual Adamax.

`torch.optim.Adamax` is not used because it imports torch's compiler when it gets its first parameter, which takes more
than two seconds in every training process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdvae.latents.sparse_reads import fetch, rows_of

MOMENTS, ROW_MOMENTS = ("average", "largest", "step"), ("row_moments", "row_step")
"""Names of the state tensors of a parameter with dense gradients, and of one with sparse gradients."""
BETA, DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Decay rates of the mean gradient and of the largest gradient, and the smallest value of the latter."""
CACHED = 2**17
"""Number of entries of a parameter updated at a time; with moments and gradients, they fit into the cache of a core."""


@dataclass
class Group:
    """Parameters with a common learning rate, which may change from step to step.

    Attributes:
        parameters: the parameters.
        rate: the learning rate.
    """

    parameters: Sequence[nn.Parameter]
    rate: float


class Adamax:
    """Adamax, row by row for parameters (N, K, D) whose gradients are coalesced sparse tensors.

    Attributes:
        groups: the groups of parameters.
        state: the named state tensors of each parameter that has had a gradient. With dense gradients these are
            `MOMENTS`: `average` and `largest`, in the shape of the parameter, and `step`, 0-dim on the CPU; with sparse
            gradients `ROW_MOMENTS`: `row_moments`, (N, K, 2 D), and `row_step`, (N, K).
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def forget_gradients(self) -> None:
        """Remove the gradients of all parameters."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
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


def _update(triples: Sequence[tuple[Tensor, Tensor, dict[str, Tensor]]], rate: float) -> None:
    """One step of Adamax for parameters with dense gradients, given as (parameter, gradient, state)."""
    for parameter, _, state in triples:
        if not state:
            state.update(average=torch.zeros_like(parameter), largest=torch.zeros_like(parameter), step=torch.tensor(0))
        state["step"] += 1
    parameters = [parameter for parameter, _, _ in triples]
    gradients = [gradient for _, gradient, _ in triples]
    averages, largest = ([state[name] for _, _, state in triples] for name in ("average", "largest"))
    torch._foreach_lerp_(averages, gradients, 1 - BETA)
    torch._foreach_mul_(largest, DECAY)
    sizes = torch._foreach_abs(gradients)
    torch._foreach_add_(sizes, EPSILON)
    torch._foreach_maximum_(largest, sizes)
    rates = [-rate / (1 - BETA ** int(state["step"])) for _, _, state in triples]
    torch._foreach_addcdiv_(parameters, averages, largest, rates)


def _update_rows(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], rate: float) -> None:
    """One step of Adamax for the rows (n, k) that have a gradient, with a bias correction for each row."""
    if not state:
        n, k, d = parameter.shape
        # Both moments of a row are adjacent in memory: most of the time of a step is spent on fetching uncached rows.
        state["row_moments"] = parameter.new_zeros(n, k, 2 * d)
        state["row_step"] = torch.zeros(n, k, dtype=torch.int32, device=parameter.device)
    tables = [table.flatten(0, 1) for table in (parameter, state["row_moments"], state["row_step"].unsqueeze(-1))]
    most = max(1, CACHED // parameter.shape[-1])
    for rows, g in zip(torch.split(rows_of(gradient), most), torch.split(gradient.values(), most), strict=True):
        _update_block(tables, rows, g, rate)


def _update_block(tables: Sequence[Tensor], rows: Tensor, g: Tensor, rate: float) -> None:
    """Update some rows (R,) of the tables of values, moments and step counts with their gradient (R, D)."""
    values, moments, steps = (fetch(tables[0], rows), fetch(tables[1], rows), tables[2].index_select(0, rows).add_(1))
    average, largest = moments.chunk(2, -1)
    average.mul_(BETA).add_(g, alpha=1 - BETA)
    torch.maximum(largest.mul_(DECAY), g.abs().add_(EPSILON), out=largest)
    values.addcmul_(average / largest, -rate / (1 - BETA ** steps.to(g.dtype)))
    for table, new in zip(tables, (values, moments, steps), strict=True):
        table.index_copy_(0, rows, new)


def entries(gradient: Tensor) -> Tensor:
    """The entries of a dense gradient, or of a coalesced sparse one, as a tensor that shares their memory."""
    return gradient.values() if gradient.is_sparse else gradient


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, 0-dim."""
    return torch.nn.utils.get_total_norm([entries(gradient) for gradient in gradients])


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, norm: Tensor) -> Tensor:
    """Scale all gradients so that their norm, which is given, becomes at most `most`.

    Returns:
        1 if that changed the gradients, else 0; 0-dim, of the type of the norm.
    """
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([entries(p.grad) for p in parameters if p.grad is not None], scale)
    return (scale < 1).to(norm.dtype)
