"""On what a run computes: what attempts at a run need to have in common for the same numbers to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

VALUE = "computing"
"""The name under which a checkpoint keeps it."""


def computing(threads: int, workers: int, device: torch.device) -> dict[str, Any]:
    """Versions, numbers and names of that on which a run computes, JSON-like values."""
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        chip = f"{torch.cpu.get_capabilities().get('cpu_name', '')} {torch.backends.cpu.get_cpu_capability()}".strip()
    return {"torch": torch.__version__, "device": chip, "threads": threads, "workers": workers}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two attempts, in words; empty if nothing does."""
    differing = [name for name in now if name in before and before[name] != now[name]]
    return ", ".join(f"{name} {now[name]} instead of {before[name]}" for name in differing)
