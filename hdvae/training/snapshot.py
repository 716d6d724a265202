"""Snapshots: everything of a training state that changes, as named tensors and JSON-like values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hdvae.config import parse
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE


@dataclass(frozen=True)
class Snapshot:
    """A training state as it is stored.

    Attributes:
        tensors: tensors by name; a name starts with its group: `model/`, `optimizer/`, `average/`, `best/`, …
        values: JSON-like values: the experiment, the image size, the seed, the step, …
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with `prefix/` before their names, without graphs."""
    return {f"{prefix}/{name}": tensor.detach() for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix/`, by the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def trained_model(snapshot: Snapshot) -> HDVAE:
    """The model of a snapshot, in evaluation mode on the CPU.

    It has the best weights if training stops early, else the averaged weights if there are any, else the last ones.
    """
    experiment = parse(Experiment, snapshot.values["experiment"], "checkpoint")
    height, width = snapshot.values["image"]
    model = HDVAE(experiment.model, (height, width))
    kinds = [kind for kind in ("best", "average", "model") if below(kind, snapshot.tensors)]
    model.load_state_dict(below(kinds[0], snapshot.tensors))
    return model.eval()
