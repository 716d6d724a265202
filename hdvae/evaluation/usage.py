"""Usage of the slots of the memories.

A slot is used when a hard sample of q chooses it. Training records the step at which each slot was last used;
evaluation counts how often each slot is used on its images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdvae.latents.layers import MemoryLayer
from hdvae.network.model import HDVAE
from hdvae.network.terms import Terms
from hdvae.workers import Workers


class Usage:
    """The step at which each slot was last used: on this worker only, until `merge` is called.

    Args:
        model: the model with the memories.

    Attributes:
        last: for each memory, by its name, the step at which each slot was last used, 0 for never, (N, K).
    """

    def __init__(self, model: HDVAE) -> None:
        self._names = {node: model.name(node) for node in model.nodes}
        self.last: dict[str, Tensor] = {}
        for node in model.nodes:
            layer = model.layer(node)
            if isinstance(layer, MemoryLayer):
                shape = layer.variables, layer.classes
                self.last[self._names[node]] = torch.zeros(shape, dtype=torch.int32, device=layer.values_NKD.device)

    def note(self, terms: Terms, step: int) -> None:
        """Record the hard samples of step number `step` ≥ 1."""
        for layer in terms.layers:
            last = self.last.get(self._names[layer.node])
            if last is not None:
                last[torch.arange(len(last), device=last.device), layer.draw.hard] = step

    def merge(self, workers: Workers) -> None:
        """Include the usage recorded by the other workers."""
        workers.largest(self.last.values())

    def dead(self, step: int, after: int) -> dict[str, Tensor]:
        """For each memory, whether a slot was not used in the last `after` steps before `step`, (N, K)."""
        return {name: last <= step - after for name, last in self.last.items()}

    def counts(self, step: int, after: int) -> dict[str, float]:
        """For each memory, `slots_used`, the number of slots used so far, and `dead_slots`, the number of dead ones."""
        used = {f"slots_used/{name}": float((last > 0).sum()) for name, last in self.last.items()}
        return used | {f"dead_slots/{name}": float(dead.sum()) for name, dead in self.dead(step, after).items()}


def perplexity(codes: Tensor) -> Tensor:
    """Exp of the entropy of the slot usage, mean over the variables; 0-dim, float64.

    If the used slots are used equally often, this is their number.

    Args:
        codes: hard samples, (…, N).
    """
    each = []
    for n in range(codes.shape[-1]):
        share = torch.unique(codes[..., n], return_counts=True)[1].double() / codes[..., n].numel()
        each.append((-share * share.log()).sum().exp())
    return torch.stack(each).mean()
