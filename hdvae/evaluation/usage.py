"""Which slots of the memories are used: what people who study memories want to know.

A slot is used when a hard sample of q chooses it. Training keeps the step of every slot's last use; evaluation counts
the uses on its images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdvae.latents.layers import MemoryLayer
from hdvae.network.model import HDVAE
from hdvae.network.terms import Terms
from hdvae.workers import Workers


class Usage:
    """When each slot was last used, on one worker until `merge`.

    Args:
        model: whose memories are watched.

    Attributes:
        last: for every memory, by its name, the number of steps done when a slot was last used, 0 for never, (N, K).
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
        """Take note of the hard samples of a step, the number of which is `step` ≥ 1."""
        for layer in terms.layers:
            last = self.last.get(self._names[layer.node])
            if last is not None:
                last[torch.arange(len(last), device=last.device), layer.draw.hard] = step

    def merge(self, workers: Workers) -> None:
        """Take note of what the other workers have seen."""
        workers.largest(self.last.values())

    def dead(self, step: int, after: int) -> dict[str, Tensor]:
        """Which slots were not used in the last `after` steps before `step`, (N, K)."""
        return {name: last <= step - after for name, last in self.last.items()}

    def counts(self, step: int, after: int) -> dict[str, float]:
        """`slots_used`: how many slots were ever used; `dead_slots`: how many not lately. Over a layer's variables."""
        used = {f"slots_used/{name}": float((last > 0).sum()) for name, last in self.last.items()}
        return used | {f"dead_slots/{name}": float(dead.sum()) for name, dead in self.dead(step, after).items()}


def perplexity(codes: Tensor) -> Tensor:
    """Exp of the entropy of the use of slots, mean over the variables; float64, 0-dim.

    It is the number of slots that are used, where each is used as often.

    Args:
        codes: hard samples, (…, N).
    """
    each = []
    for n in range(codes.shape[-1]):
        share = torch.unique(codes[..., n], return_counts=True)[1].double() / codes[..., n].numel()
        each.append((-share * share.log()).sum().exp())
    return torch.stack(each).mean()
