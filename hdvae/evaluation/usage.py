"""Which slots of the memories training uses, and which are dead.

A slot is used in a step when a hard sample chooses it, or when a relaxed sample reads it with a weight that matters.
Training records the step at which each slot was last used. How much each slot is used at the end of training is
estimated from evaluations: `hdvae.evaluation.slot_use`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdvae.experiment.experiment import TrainingConfig
from hdvae.latents.layers import MemoryLayer
from hdvae.network.model import HDVAE
from hdvae.network.terms import Terms
from hdvae.workers import Workers

LEAST_WEIGHT = 1e-3
"""A slot counts as read from this weight in a relaxed sample on: its gradient is as much of that of a hard read."""


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
        """Record the slots used by the samples of step number `step` ≥ 1."""
        for layer in terms.layers:
            last, draw = self.last.get(self._names[layer.node]), layer.draw
            if last is None:
                continue
            variables = torch.arange(len(last), device=last.device)
            last[variables, draw.hard] = step
            if draw.soft is not None:
                soft = draw.soft.detach()
                if draw.slots is None:
                    last[soft.amax(0) >= LEAST_WEIGHT] = step
                else:
                    read = soft >= LEAST_WEIGHT
                    last[variables.unsqueeze(-1).expand_as(read)[read], draw.slots[read]] = step

    def merge(self, workers: Workers) -> None:
        """Include the usage recorded by the other workers."""
        workers.largest(self.last.values())

    def dead(self, step: int, config: TrainingConfig) -> dict[str, Tensor]:
        """For each memory for which this can be known at this step, whether a slot is dead, (N, K)."""
        windows = {name: config.dead_window(last.shape[1]) for name, last in self.last.items()}
        return {name: last <= step - windows[name] for name, last in self.last.items() if windows[name] <= step}

    def counts(self, step: int, config: TrainingConfig) -> dict[str, float]:
        """For each memory, `slots_used`, the number of slots used so far, and `dead_slots`, the number of dead ones.

        Both are means over the variables of the memory. `dead_slots` is left out where it cannot be known yet.
        """
        used = {f"slots_used/{name}": _mean_count(last > 0) for name, last in self.last.items()}
        return used | {f"dead_slots/{name}": _mean_count(dead) for name, dead in self.dead(step, config).items()}


def _mean_count(slots: Tensor) -> float:
    """The number of slots, (N, K), mean over the variables."""
    return float(slots.sum()) / len(slots)
