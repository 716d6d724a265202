"""Which slots of the memories are used: what people who study memories want to know.

A slot is used when a hard sample of q chooses it. Training keeps the step of every slot's last use; evaluation counts
the uses on its images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hdvae.latents import MemoryLayer
from hdvae.model import HDVAE, Terms
from hdvae.optimizer import Adamax
from hdvae.randomness import generator
from hdvae.wiring import Node
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


@torch.no_grad()
def revive(model: HDVAE, optimizer: Adamax, dead: Mapping[str, Tensor], seed: int, step: int) -> None:
    """Draw dead slots anew, as at the beginning, and forget their moments.

    A slot's value is drawn anew where no variable that reads it uses the slot, and a half-key where no slot that has
    it is used: a slot cannot be found again with a key that leads nowhere.

    Args:
        model: changed.
        optimizer: its moments are.
        dead: from `Usage.dead`.
        seed: of the run.
        step: of which what is drawn is a function, like the seed.
    """
    for node in model.nodes:
        layer, name = model.layer(node), model.name(node)
        if isinstance(layer, MemoryLayer) and name in dead:
            _revive_layer(layer, optimizer, dead[name], _Fresh(seed, step, node))


class _Fresh:
    """Standard normal numbers, a function of the seed, the step and the node."""

    def __init__(self, seed: int, step: int, node: Node) -> None:
        self._seed, self._step, self._node = seed, step, node

    def like(self, rows: Tensor, what: str) -> Tensor:
        purpose = f"revived {what} {self._node.level} {self._node.direction}"
        source = generator(rows.device, self._seed, purpose, self._step)
        return torch.randn(rows.shape, dtype=rows.dtype, device=rows.device, generator=source)


def _revive_layer(layer: MemoryLayer, optimizer: Adamax, dead_NK: Tensor, fresh: _Fresh) -> None:
    dead_values = dead_NK if len(layer.values_NKD) > 1 else dead_NK.all(0, keepdim=True)
    _redraw(layer.values_NKD, dead_values, optimizer, fresh, "values")
    if layer.key_parts == 1:
        dead_keys = dead_NK.unsqueeze(0)
    else:
        square = dead_NK.view(len(dead_NK), layer.part_classes, layer.part_classes)
        dead_keys = torch.stack([square.all(2), square.all(1)])
    _redraw(layer.keys_PNMQ, dead_keys, optimizer, fresh, "keys")


def _redraw(table: Tensor, dead: Tensor, optimizer: Adamax, fresh: _Fresh, what: str) -> None:
    table[dead] = fresh.like(table[dead], what)
    for moments in optimizer.state.get(table, {}).values():
        if moments.dim() >= dead.dim():  # what is kept of each row, not of the whole
            moments[dead] = 0


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
