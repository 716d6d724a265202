"""The processes that train one model together: who this one is, and what they tell each other.

Every worker holds the whole model and a share of each batch. Random numbers belong to images, batch-level numbers are
taken over all shares, and gradients are averaged: so the number of workers changes nothing but rounding, and dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hdvae.errors import PeerLost
from hdvae.latents.sparse_reads import rows_once
from hdvae.randomness.shares import BLOCK

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among those of a run. More than one need `torch.distributed`'s process group.

    `mean`, `largest`, `average_gradients`, `any`, `gather` and `from_first` are for all workers to call, in the same
    order. They raise `PeerLost` when one of them does not answer.

    Attributes:
        rank: of this one, 0 … size − 1; the first one speaks for all of them.
        size: how many there are.
    """

    rank: int
    size: int

    @staticmethod
    def here() -> Workers:
        """This process in the process group that is set up."""
        return Workers(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` images are this worker's: whole blocks, one after another; may be none."""
        blocks = -(-count // BLOCK)
        first, last = (blocks * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(min(first * BLOCK, count), min(last * BLOCK, count))

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the workers, without graphs: each of its tensor's shape and type."""
        own = [tensor.detach() for tensor in tensors]
        if self.size == 1 or not own:
            return own
        flat = torch.cat([tensor.flatten() for tensor in own])  # in the widest of their types
        with _answering():
            dist.all_reduce(flat)
        parts = torch.split(flat / self.size, [tensor.numel() for tensor in own])
        return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, own, strict=True)]

    def largest(self, tensors: Iterable[Tensor]) -> None:
        """The largest numbers over the workers, in the place of each tensor."""
        if self.size > 1:
            with _answering():
                for tensor in tensors:
                    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the mean over the workers in the place of each gradient; a sparse one has each row once afterwards.

        Of a sparse gradient only the rows that some worker has are exchanged.
        """
        dense: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = self._mean_rows(rows_once(parameter.grad))
            elif parameter.grad is not None:
                dense.append(parameter.grad)
        if self.size > 1:
            for gradient, mean in zip(dense, self.mean(dense), strict=True):
                gradient.copy_(mean)

    def _mean_rows(self, gradient: Tensor) -> Tensor:
        """The mean of coalesced sparse gradients, coalesced."""
        if self.size == 1:
            return gradient
        counts = self._gathered(torch.tensor([gradient._nnz()], device=gradient.device))
        most = max(int(count) for count in counts)
        places = self._gathered(_padded(gradient.indices().T, most))
        values = self._gathered(_padded(gradient.values(), most))
        parts = list(zip(places, values, counts, strict=True))
        everywhere = torch.cat([place[: int(count)] for place, _, count in parts]).T
        entries = torch.cat([value[: int(count)] for _, value, count in parts]) / self.size
        return rows_once(torch.sparse_coo_tensor(everywhere, entries, gradient.shape, check_invariants=False))

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        """Tensors of the same shape from all workers, in the order of ranks."""
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with _answering():
            dist.all_gather(parts, tensor.contiguous())
        return parts

    def any(self, mine: bool) -> bool:
        """Whether it is so on any of the workers; the same answer on all."""
        if self.size == 1:
            return mine
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        found = torch.tensor(float(mine), device=device)
        with _answering():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)

    def gather(self, act: Callable[[], T]) -> list[T]:
        """Let every worker do its part; what each of them got, in the order of ranks, on all of them.

        What is gathered is pickled: tensors belong on the CPU.

        Raises:
            ArithmeticError: what the first worker that failed raised, on all of them.
        """
        if self.size == 1:
            return [act()]
        own: T | ArithmeticError
        try:
            own = act()
        except ArithmeticError as fault:  # the others wait: they must hear of it
            own = fault
        parts: list[Any] = [None] * self.size
        with _answering():
            dist.all_gather_object(parts, own)
        for part in parts:
            if isinstance(part, ArithmeticError):
                raise part
        return parts

    def from_first(self, act: Callable[[], T]) -> T:
        """Let the first worker do something, and give what it got to all; pickled, tensors on the CPU."""
        if self.size == 1:
            return act()
        box: list[Any] = [act() if self.is_first else None]
        with _answering():
            dist.broadcast_object_list(box, src=0)
        got: T = box[0]
        return got


def _padded(rows: Tensor, count: int) -> Tensor:
    """Rows (n, …) with zeros below, (count, …)."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


@contextmanager
def _answering() -> Iterator[None]:
    """Tell a lost worker from a failure of this one: the back ends raise a bare RuntimeError."""
    try:
        yield
    except RuntimeError as fault:
        raise PeerLost(f"another worker does not answer: {fault}") from fault


ALONE = Workers(0, 1)
"""The only worker of a run."""
