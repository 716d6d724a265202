"""What a run leaves on the study's storage: its journal of metrics and its checkpoints.

    NAME/trial-0007/seed-0/journal/000000300.json        metrics and the time of one report
    NAME/trial-0007/seed-0/checkpoints/000000300.safetensors
    NAME/trial-0007/seed-0/checkpoints/000000300.json    written last: it makes the checkpoint valid

Every file is whole or absent. A checkpoint counts once its manifest is there and the tensors have the size and
checksum that it states. The journal entry of a step is written before its checkpoint, and never again: a run
that repeats a step after a crash computes the same values, and the first time stamp stands.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from hdvae.training import Snapshot
from hdvae_platform.storage import Storage

KEEP = 2
"""Checkpoints kept: the newest, and the one before in case the newest cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One report: metrics after `step` steps, and when they were first known (milliseconds since 1970)."""

    step: int
    time: int
    metrics: Mapping[str, float]


class Journal:
    """The metrics of one run; the copy from which MLflow is filled, now or later."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._folder = storage, f"{run}/journal"

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a report, unless this step is recorded already."""
        name = f"{self._folder}/{step:09d}.json"
        if not self._storage.exists(name):
            entry = {"step": step, "time": time.time_ns() // 1_000_000, "metrics": dict(metrics)}
            self._storage.write(name, json.dumps(entry).encode())

    def steps(self) -> list[int]:
        """The steps recorded, increasing."""
        return [int(name.removesuffix(".json")) for name in self._storage.list(self._folder)]

    def entry(self, step: int) -> Entry:
        """The report of a recorded step."""
        return Entry(**json.loads(self._storage.read(f"{self._folder}/{step:09d}.json")))


class Damaged(Exception):
    """A checkpoint that is not what was written; the text says how."""


class Checkpoints:
    """The checkpoints of one run: safetensors and JSON, nothing that executes when it is read."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._folder = storage, f"{run}/checkpoints"

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Store a snapshot, then drop the older ones."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in snapshot.tensors.items()}
        data = save(tensors)
        manifest = {
            "format": 1,
            "step": step,
            "values": dict(snapshot.values),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self._storage.write(f"{self._folder}/{step:09d}.safetensors", data)
        self._storage.write(f"{self._folder}/{step:09d}.json", json.dumps(manifest, indent=1).encode())
        for old in self.steps()[:-KEEP]:
            self._storage.delete_file(f"{self._folder}/{old:09d}.json")
            self._storage.delete_file(f"{self._folder}/{old:09d}.safetensors")

    def steps(self) -> list[int]:
        """The steps with a checkpoint, increasing."""
        names = self._storage.list(self._folder)
        return [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]

    def address(self, step: int) -> str:
        """Where the tensors of a checkpoint are."""
        return self._storage.address(f"{self._folder}/{step:09d}.safetensors")

    def load(self, step: int) -> Snapshot:
        """Read a checkpoint.

        Raises:
            Damaged: it is not what was written.
        """
        try:
            manifest: dict[str, Any] = json.loads(self._storage.read(f"{self._folder}/{step:09d}.json"))
            data = self._storage.read(f"{self._folder}/{step:09d}.safetensors")
            if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
                raise Damaged(f"{self.address(step)}: size or checksum differs from its manifest")
            return Snapshot(load(data), manifest["values"])
        except (FileNotFoundError, KeyError, ValueError, SafetensorError) as fault:
            raise Damaged(f"{self.address(step)}: {fault}") from fault

    def latest(self) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that can be read, and what was wrong with newer ones."""
        faults: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), faults
            except Damaged as fault:
                faults.append(str(fault))
        return None, faults


def run_folder(study: str, trial: int, seed: int) -> str:
    """The folder of one run below the storage root; without time stamps, so that a restart finds it."""
    return f"{study}/trial-{trial:04d}/seed-{seed}"
