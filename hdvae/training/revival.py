"""Reinitialisation of dead slots of the memories during training (`training.revive`).

The same is done with dead codes in vector quantisation: Łańcucki et al. 2020, "Robust training of vector quantized
bottleneck models", and the random restarts of Dhariwal et al. 2020, "Jukebox".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hdvae.latents.layers import MemoryLayer
from hdvae.network.model import HDVAE
from hdvae.network.wiring import Node
from hdvae.randomness.noise import NoiseSource
from hdvae.training.optimizer import Adamax


@torch.no_grad()
def revive(model: HDVAE, optimizer: Adamax, dead: Mapping[str, Tensor], seed: int, step: int) -> None:
    """Reinitialise dead slots, and reset their moments in the optimiser.

    The value of a slot is reinitialised if the slot is dead for all variables that read it, and a half-key if all slots
    with this half-key are dead. Without a new key, a dead slot would not be chosen again.

    Args:
        model: the model, which is changed; an average of the weights gets the same values as the weights.
        optimizer: the optimiser, whose moments of this model's memories are changed.
        dead: the dead slots, from `hdvae.evaluation.usage.Usage.dead`.
        seed: the seed of the run.
        step: the step; the new values are a function of it and of the seed.
    """
    for node in model.nodes:
        layer, name = model.layer(node), model.name(node)
        if isinstance(layer, MemoryLayer) and name in dead:
            _revive_layer(layer, optimizer, dead[name], _Fresh(seed, step, node))


class _Fresh:
    """Standard normal numbers that are a function of the seed, the step and the node."""

    def __init__(self, seed: int, step: int, node: Node) -> None:
        self._seed, self._step, self._node = seed, step, node

    def like(self, rows: Tensor, what: str) -> Tensor:
        purpose = f"revived {what} {self._node.level} {self._node.direction}"
        source = NoiseSource.at(rows.device, rows.dtype, len(rows), seed=self._seed, purpose=purpose, step=self._step)
        return source.normal(*rows.shape[1:])


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
        if moments.dim() >= dead.dim():  # there is one entry for each row, not one for the whole table
            moments[dead] = 0
