"""What all benchmarks share: which machine they ran on, and the line that they end with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch

from hdvae_platform.tracking.provenance import processor

Bar = Mapping[str, float]
"""A measured `value` and its `limit`: the benchmark says from which side."""


def machine() -> dict[str, str | int]:
    """The processor, its cores, the version of torch and the threads that it uses."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count() or 1,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def report(name: str, bars: Mapping[str, Bar]) -> None:
    """Print the last line of a benchmark: its name, bars and machine as JSON."""
    print(json.dumps({"benchmark": name, "bars": {key: dict(bar) for key, bar in bars.items()}, "machine": machine()}))
