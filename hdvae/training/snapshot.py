"""Snapshots: everything of a training state that changes, as named tensors and JSON-like values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE

OTHERWISE = "or delete the checkpoints of this run to train it from the beginning"
"""What helps where a checkpoint cannot be used."""


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


def check_names(expected: Collection[str], found: Collection[str], part: str) -> None:
    """Check that a checkpoint has the named parts that are expected, and no others.

    Args:
        expected: the names that the experiment and this version of the program need.
        found: the names in the checkpoint.
        part: what is checked, for the message.

    Raises:
        InputError: the names differ.
    """
    differing = {"lacks": sorted({*expected} - {*found}), "has unknown": sorted({*found} - {*expected})}
    faults = [f"{kind} {names[0]}{_and_more(names)}" for kind, names in differing.items() if names]
    if faults:
        raise InputError(
            f"checkpoint, {part}: it {' and '.join(faults)}; use the version of hdvae that wrote it, {OTHERWISE}"
        )


def check_tensors(shapes: Mapping[str, Sequence[int]], found: Mapping[str, Tensor], part: str) -> None:
    """Check that a checkpoint has exactly the tensors that are expected, and that all their values are finite.

    Args:
        shapes: the names and shapes that the experiment and this version of the program need.
        found: the tensors in the checkpoint.
        part: what is checked, for the message.

    Raises:
        InputError: a name or a shape differs, or a value is not finite.
    """
    check_names(shapes, found, part)
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise InputError(
                f"checkpoint, {part}: {name} has the shape {tuple(tensor.shape)} instead of {tuple(shapes[name])}; "
                f"use the version of hdvae that wrote it, {OTHERWISE}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"checkpoint, {part}: {name} has values that are not finite; delete it, {OTHERWISE}")


def _and_more(names: Collection[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def trained_model(snapshot: Snapshot) -> HDVAE:
    """The model of a snapshot, in evaluation mode on the CPU.

    It has the best weights if training stops early, else the averaged weights if there are any, else the last ones.

    Raises:
        InputError: the weights are not those of this model.
    """
    experiment = parse(Experiment, snapshot.values["experiment"], "checkpoint")
    height, width = snapshot.values["image"]
    model = HDVAE(experiment.model, (height, width))
    kinds = [kind for kind in ("best", "average", "model") if below(kind, snapshot.tensors)]
    weights = below(kinds[0], snapshot.tensors) if kinds else {}
    check_tensors({name: own.shape for name, own in model.state_dict().items()}, weights, "weights")
    model.load_state_dict(weights)
    return model.eval()
