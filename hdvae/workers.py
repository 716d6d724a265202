"""Workers: the processes that train one model together, and their communication.

Every worker has the whole model and a share of each batch. Random numbers belong to images, means are over all shares,
and gradients are averaged. So the number of workers affects only rounding errors.
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

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among the workers of a run. Several workers need the process group of `torch.distributed`.

    `mean`, `largest`, `average`, `average_rows`, `any`, `gather` and `from_first` must be called by all workers in the
    same order. They raise `PeerLost` if one of the workers does not answer.

    Attributes:
        rank: the rank of this worker, 0 … size − 1. The first worker reads and reports for all of them.
        size: the number of workers.
    """

    rank: int
    size: int

    @staticmethod
    def here() -> Workers:
        """This process in the current process group of `torch.distributed`."""
        return Workers(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this is the first worker, which reads and reports for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The images out of `count` that belong to this worker: consecutive ones, possibly none."""
        first, last = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The means of tensors over the workers, with the same shapes and types, without graphs."""
        own = [tensor.detach() for tensor in tensors]
        if self.size == 1 or not own:
            return own
        flat = torch.cat([tensor.flatten() for tensor in own])  # has the widest of their types
        with _answering():
            dist.all_reduce(flat)
        parts = torch.split(flat / self.size, [tensor.numel() for tensor in own])
        return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, own, strict=True)]

    def largest(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its elementwise maximum over the workers, in place."""
        if self.size > 1:
            with _answering():
                for tensor in tensors:
                    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def average_rows(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each sparse gradient by its mean over the workers, coalesced.

        Only the rows that some worker has are exchanged.
        """
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = self._mean_rows(rows_once(parameter.grad))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each dense tensor by its mean over the workers, in place."""
        if self.size > 1:
            with _answering():
                for tensor in tensors:
                    dist.all_reduce(tensor)
                    tensor.div_(self.size)

    def _mean_rows(self, gradient: Tensor) -> Tensor:
        """The mean of a coalesced sparse gradient over the workers, coalesced."""
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
        """The tensors of all workers, which have the same shape, in the order of ranks."""
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with _answering():
            dist.all_gather(parts, tensor.contiguous())
        return parts

    def any(self, mine: bool) -> bool:
        """Whether `mine` is true on any worker."""
        if self.size == 1:
            return mine
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        largest = torch.tensor(float(mine), device=device)
        with _answering():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return bool(largest)

    def gather(self, act: Callable[[], T]) -> list[T]:
        """Call `act` on every worker, and return all results in the order of ranks, on all workers.

        The results are pickled; tensors must be on the CPU.

        Raises:
            ArithmeticError: `act` raised it on some worker. All workers raise that of the first such worker.
        """
        if self.size == 1:
            return [act()]
        own: T | ArithmeticError
        try:
            own = act()
        except ArithmeticError as fault:  # the others wait for this result, so it is sent instead of raised here
            own = fault
        parts: list[Any] = [None] * self.size
        with _answering():
            dist.all_gather_object(parts, own)
        for part in parts:
            if isinstance(part, ArithmeticError):
                raise part
        return parts

    def from_first(self, act: Callable[[], T]) -> T:
        """Call `act` on the first worker only, and return its result on all workers.

        The result is pickled; tensors must be on the CPU.
        """
        if self.size == 1:
            return act()
        box: list[Any] = [act() if self.is_first else None]
        with _answering():
            dist.broadcast_object_list(box, src=0)
        result: T = box[0]
        return result


def _padded(rows: Tensor, count: int) -> Tensor:
    """Rows (n, …) followed by rows of zeros: (count, …)."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


@contextmanager
def _answering() -> Iterator[None]:
    """Raise `PeerLost` for the plain RuntimeError that the back ends raise when another worker is lost."""
    try:
        yield
    except RuntimeError as fault:
        raise PeerLost(f"another worker does not answer: {fault}") from fault


ALONE = Workers(0, 1)
"""The only worker of a run."""
