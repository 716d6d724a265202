"""What training costs: images per second, and the peak of the memory. These are measured, and never the same twice."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells the peak of the resident memory of this process, and where a new one is begun (proc_pid_status(5),
proc_pid_clear_refs(5))."""
PEAK_BEGINS = "5"
"""What is written to `REFERENCES` for that."""
MB = 10**6
SAMPLE_EVERY = 1.0
"""Seconds between two samples of how busy a GPU is; each is itself a mean over up to a second (NVML)."""


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
        self._utilization = utilization_of(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start()

    def start(self) -> None:
        """Begin to count steps: at the start, and after each evaluation."""
        self._steps, self._begin = 0, time.perf_counter()
        self._sampled, self._samples = self._begin, list[float]()

    def count_step(self) -> None:
        """Count a step."""
        self._steps += 1
        if self._utilization is not None and time.perf_counter() - self._sampled >= SAMPLE_EVERY:
            self._sampled = time.perf_counter()
            self._samples.append(self._utilization())

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
        if self._samples:
            costs["system/gpu_utilization_percent"] = fmean(self._samples)
        return costs


def utilization_of(device: torch.device) -> Callable[[], float] | None:
    """A function that tells how much of the time a GPU computes, %; None for the CPU, and where NVML is not there."""
    if device.type != "cuda":
        return None
    try:
        from pynvml import NVMLError  # of nvidia-ml-py, without which a run trains just as well
    except ImportError:
        return None
    try:
        torch.cuda.utilization(device)
    except (NVMLError, RuntimeError):  # no driver, or a part of a GPU (MIG), for which NVML does not know it
        return None
    return lambda: float(torch.cuda.utilization(device))


def resident_peak() -> float:
    """The peak of the resident memory of this process, bytes."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * float(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
