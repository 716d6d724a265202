"""How many images and samples go through the network at once in an evaluation: as many as the memory has room for.

The whole memory counts, not what is free of it: so a run that resumes on the same machine has the same chunks, and the
same numbers to the last bit.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import torch

from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.network.model import HDVAE

MOST_ROWS = 1024
"""Largest number of rows: larger batches are no faster."""
SHARE, GPU_SHARE = 1 / 16, 1 / 4
"""Shares of the memory that an evaluation may take: several runs and workers share a machine, and sometimes a GPU."""
FEATURES = 14
"""Feature maps of the highest resolution that are in memory at the same time; those inside a block count twice."""
CLASSES = 8
"""Tensors with a number for each class of all variables that are in memory at the same time."""
PIXELS = 8
"""Tensors with a number for each pixel that are in memory at the same time."""
MEMINFO = Path("/proc/meminfo")
LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux tells the memory of the machine, and of this container (proc_meminfo(5), cgroup v2)."""


def rows_at_once(model: HDVAE) -> int:
    """The number of rows, images × samples, that a model can be given at once where it is: a power of two."""
    device = model.top.device
    there, share = memory_of(device), GPU_SHARE if device.type == "cuda" else SHARE
    if there is None:
        return MOST_ROWS
    rows = int(share * there / bytes_of_row(model))
    return min(MOST_ROWS, 1 << int(math.log2(max(1, rows))))


def bytes_of_row(model: HDVAE) -> int:
    """An upper estimate of the memory that one row needs in an evaluation, bytes."""
    config = model.config
    features = FEATURES * config.width * (math.prod(model.image) if config.blocks == "conv" else 1)
    classes = 0
    if config.latent == "categorical":
        classes = CLASSES * sum(layer.variables * _numbers(layer, config) for layer in config.layers)
    return model.top.element_size() * (features + classes + PIXELS * math.prod(model.image))


def _numbers(layer: LayerConfig, config: ModelConfig) -> int:
    """The numbers of one variable in a tensor of its layer: weights of classes, or arrivals and logits of key parts."""
    if not config.top_m_reads:
        return layer.classes
    return 3 * config.race.draws + (2 * math.isqrt(layer.classes) if config.keys == "factored" else layer.classes)


def memory_of(device: torch.device) -> int | None:
    """The memory of a GPU, or of this machine or container, bytes; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    known = []
    with suppress(OSError):  # no Linux
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
        known.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        known.append(int(LIMIT.read_text()))
    return min(known, default=None)
