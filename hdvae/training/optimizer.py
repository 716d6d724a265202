"""Adamax, which updates a memory row by row if a step reads only some of its rows.

Source: Kingma and Ba 2014, "Adam: a method for stochastic optimization", algorithm 2. A parameter with a sparse
gradient has moments and a step count for every row. Rows without a gradient in a step, and their moments, do not
change. If every row has a gradient in every step, this is the usual Adamax.

`torch.optim.Adamax` is not used because it imports torch's compiler when it gets its first parameter, which takes more
than two seconds in every training process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdvae.latents.sparse_reads import fetch, rows_of

MOMENTS, ROW_MOMENTS = ("average", "largest", "step"), ("row_moments", "row_step")
"""Names of the state tensors of a parameter with dense gradients, and of one with sparse gradients."""
BETA, DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Decay rates of the mean gradient and of the largest gradient, and the smallest value of the latter."""
CACHED = 2**17
"""Number of entries updated at a time; with their moments and gradients, they fit into the cache of a core."""


def moment_shapes(shape: Sequence[int], *, by_row: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of the state tensors of a parameter, by their names.

    Args:
        shape: of the parameter.
        by_row: whether its gradients are sparse.
    """
    if by_row:
        return dict(zip(ROW_MOMENTS, ((*shape[:-1], 2 * shape[-1]), tuple(shape[:-1])), strict=True))
    return dict(zip(MOMENTS, (tuple(shape), tuple(shape), ()), strict=True))


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

    From its first step on, the parameters of a group that have dense gradients are views of one buffer, and so are
    their gradients and moments: a step takes a few operations in all instead of some for each parameter. All of them
    must have a gradient in every step.

    Attributes:
        groups: the groups of parameters.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._dense: list[_Dense | None] = [None for _ in groups]
        self._rows: dict[Tensor, dict[str, Tensor]] = {}

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """The named state tensors of each parameter that has had a gradient, which are views except for `step`.

        With dense gradients these are `MOMENTS`: `average` and `largest`, in the shape of the parameter, and `step`,
        0-dim on the CPU; with sparse gradients `ROW_MOMENTS`: `row_moments`, (N, K, 2 D), and `row_step`, (N, K).
        """
        return self._rows | {p: moments for dense in self._dense if dense for p, moments in dense.state().items()}

    def restore(self, state: Mapping[Tensor, dict[str, Tensor]]) -> None:
        """Continue from `state`, before the first step. Its tensors are kept, and change with every step."""
        self._rows = {p: moments for p, moments in state.items() if "row_step" in moments}
        for i, group in enumerate(self.groups):
            if own := [p for p in group.parameters if "step" in state.get(p, {})]:
                dense = self._dense[i] = _Dense(own)
                dense.restore(state)

    def forget_gradients(self) -> None:
        """Remove the gradients of all parameters."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def collect(self) -> tuple[list[Tensor], list[Tensor]]:
        """Move the dense gradients of each group into one buffer; they become views of it.

        Returns:
            The buffers, and the entries of sparse gradients. What is done to these is done to the gradients.

        Raises:
            RuntimeError: a parameter that had a dense gradient in the first step has none.
        """
        buffers = []
        for i, group in enumerate(self.groups):
            if self._dense[i] is None:
                own = [p for p in group.parameters if p.grad is not None and not p.grad.is_sparse]
                self._dense[i] = _Dense(own) if own else None
            if dense := self._dense[i]:
                buffers.append(dense.collect())
        return buffers, [gradient.values() for group in self.groups for _, gradient in _sparse(group)]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter.

        Raises:
            RuntimeError: see `collect`.
        """
        self.collect()
        for group, dense in zip(self.groups, self._dense, strict=True):
            if dense:
                dense.step(group.rate)
            for parameter, gradient in _sparse(group):
                _update_rows(parameter, gradient, self._rows.setdefault(parameter, {}), group.rate)


def _sparse(group: Group) -> list[tuple[nn.Parameter, Tensor]]:
    """The parameters of a group with sparse gradients, and these."""
    return [(p, p.grad) for p in group.parameters if p.grad is not None and p.grad.is_sparse]


class _Dense:
    """The parameters of a group that have dense gradients, their gradients and moments, in one buffer each."""

    @torch.no_grad()
    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters, self._steps = parameters, 0
        self._values = torch.cat([p.flatten() for p in parameters])
        self._gradient, self._average, self._largest = (torch.zeros_like(self._values) for _ in range(3))
        self._gradients = self._views(self._gradient)
        for parameter, view in zip(parameters, self._views(self._values), strict=True):
            parameter.data = view

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer that belong to each parameter, in their shapes."""
        parts = torch.split(buffer, [p.numel() for p in self._parameters])
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """See `Adamax.state`; there is none before the first step."""
        if not self._steps:
            return {}
        views = zip(self._parameters, self._views(self._average), self._views(self._largest), strict=True)
        return {p: {"average": a, "largest": u, "step": torch.tensor(self._steps)} for p, a, u in views}

    def restore(self, state: Mapping[Tensor, dict[str, Tensor]]) -> None:
        """See `Adamax.restore`."""
        (self._steps,) = {int(state[p]["step"]) for p in self._parameters}
        for parameter, moments in self.state().items():
            for name in ("average", "largest"):
                moments[name].copy_(state[parameter][name])

    def collect(self) -> Tensor:
        """Move the gradients into the buffer, which is returned."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if len(gradients) < len(self._parameters):
            raise RuntimeError("a parameter has no gradient in this step, but it had one before")
        if any(gradient is not view for gradient, view in zip(gradients, self._gradients, strict=True)):
            torch.cat([gradient.flatten() for gradient in gradients], out=self._gradient)
            for parameter, view in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = view
        return self._gradient

    def step(self, rate: float) -> None:
        """Update all parameters by what the buffer of gradients holds, block by block."""
        self._steps += 1
        step = -rate / (1 - BETA**self._steps)
        buffers = (self._values, self._gradient, self._average, self._largest)
        for values, gradient, average, largest in zip(
            *(torch.split(buffer, CACHED) for buffer in buffers), strict=True
        ):
            average.lerp_(gradient, 1 - BETA)
            torch.maximum(largest.mul_(DECAY), gradient.abs().add_(EPSILON), out=largest)
            values.addcdiv_(average, largest, value=step)


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
    return torch.nn.utils.get_total_norm(gradients)


def clip(gradients: Sequence[Tensor], most: float, norm: Tensor) -> Tensor:
    """Scale all gradients so that their norm, which is given, becomes at most `most`.

    Returns:
        1 if that changed the gradients, else 0; 0-dim, of the type of the norm.
    """
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(list(gradients), scale)
    return (scale < 1).to(norm.dtype)
