"""What training costs: images per second, and the peak of the memory. These are measured, and never the same twice."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells the peak of the resident memory of this process, and where a new one is begun (proc_pid_status(5),
proc_pid_clear_refs(5))."""
PEAK_BEGINS = "5"
"""What is written to `REFERENCES` for that."""
MB = 10**6


class Costs:
    """A stopwatch for training steps, and the peaks of the memory since it was made.

    Args:
        device: where the run trains.
        batch_size: images of a step, those of all workers together.
    """

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self._device, self._batch_size = device, batch_size
        with suppress(OSError):  # no Linux, or not allowed: then the peak is that since the process began
            REFERENCES.write_text(PEAK_BEGINS)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start()

    def start(self) -> None:
        """Begin to count steps: at the start, and after each evaluation."""
        self._steps, self._begin = 0, time.perf_counter()

    def count_step(self) -> None:
        """Count a step."""
        self._steps += 1

    def measured(self) -> dict[str, float]:
        """The costs of the steps since `start` by their full names (`hdvae.evaluation.metrics.COSTS`)."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._begin
        costs = {
            "train/images_per_second": self._steps * self._batch_size / seconds,
            "system/memory_peak_mb": resident_peak() / MB,
        }
        if self._device.type == "cuda":
            costs["system/gpu_memory_peak_mb"] = torch.cuda.max_memory_allocated(self._device) / MB
        return costs


def resident_peak() -> float:
    """The peak of the resident memory of this process, bytes."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * float(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
