"""What a run leaves on the study's storage: its journal of metrics and its checkpoints.

    NAME/trial-0007/seed-0/journal/000000300-0001.json        metrics and the time of one report, by attempt 1
    NAME/trial-0007/seed-0/checkpoints/000000300-0001.safetensors
    NAME/trial-0007/seed-0/checkpoints/000000300-0001.json    written last: it makes the checkpoint valid

Only the files that count are seen (`fencing`), and every file is whole or absent. A checkpoint counts once its
manifest is there and the tensors have the size and checksum that it states. The journal entry of a step is written
before its checkpoint, and never again: a run that repeats a step after a crash computes the same values, and the
first time stamp stands.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load, save

from hdvae.training import Snapshot
from hdvae_platform.fencing import Attempt, standing, written_by
from hdvae_platform.storage import Storage

KEEP = 2
"""Checkpoints kept beside the best: the newest, and the one before in case the newest cannot be read."""


@dataclass(frozen=True)
class Goal:
    """By what the checkpoints of a run are compared: a metric of its reports, and which way is better."""

    metric: str = "valid/elbo"
    direction: Literal["maximize", "minimize"] = "maximize"


ELBO = Goal()
"""Where nothing else is asked for."""


@dataclass(frozen=True)
class Entry:
    """One report: metrics after `step` steps, and when they were first known (milliseconds since 1970)."""

    step: int
    time: int
    metrics: Mapping[str, float]


class Journal:
    """The metrics of one run; the copy from which MLflow is filled, now or later.

    Args:
        storage: of the run.
        run: its folder.
        clock: seconds since 1970; replaced where training is simulated.
    """

    def __init__(self, storage: Storage, run: str, clock: Callable[[], float] = time.time) -> None:
        self._storage, self._run, self._clock = storage, run, clock
        self._names: dict[int, str] = {}

    def append(self, step: int, metrics: Mapping[str, float], attempt: Attempt) -> None:
        """Record a report, unless this step is recorded already.

        Raises:
            Fenced: a newer attempt has begun.
        """
        if step not in self.steps():
            entry = {"step": step, "time": int(1000 * self._clock()), "metrics": dict(metrics)}
            attempt.write("journal", f"{step:09d}", ".json", json.dumps(entry).encode())

    def steps(self) -> list[int]:
        """The steps recorded, increasing."""
        self._names = {_step(name): name for name in standing(self._storage, self._run, "journal")}
        return list(self._names)

    def steps_by(self, attempt: int) -> list[int]:
        """The steps that an attempt was the first to report, increasing."""
        return [step for step in self.steps() if written_by(self._names[step]) == attempt]

    def entry(self, step: int) -> Entry:
        """The report of a recorded step."""
        if step not in self._names:
            self.steps()
        return Entry(**json.loads(self._storage.read(f"{self._run}/journal/{self._names[step]}")))

    def best(self, goal: Goal, among: Iterable[int]) -> int | None:
        """Which of some steps has the best value, the earliest of equals; None if no report of them has one."""
        reported = sorted(set(among) & set(self.steps()))
        values = {step: self.entry(step).metrics.get(goal.metric, math.nan) for step in reported}
        finite = [step for step in reported if math.isfinite(values[step])]
        sign = 1 if goal.direction == "maximize" else -1
        return max(finite, key=lambda step: sign * values[step], default=None)


class Damaged(Exception):
    """A checkpoint that is not what was written; the text says how."""


class Checkpoints:
    """The checkpoints of one run: safetensors and JSON, nothing that executes when it is read."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._run = storage, run

    def save(self, step: int, snapshot: Snapshot, attempt: Attempt, best: int | None = None) -> None:
        """Store a snapshot, then drop the older ones but for the newest and the best.

        Args:
            step: of the snapshot.
            snapshot: the state.
            attempt: at the run.
            best: the step of the best checkpoint, if there is one.

        Raises:
            Fenced: a newer attempt has begun.
        """
        tensors = {name: tensor.cpu().contiguous() for name, tensor in snapshot.tensors.items()}
        data = save(tensors)
        manifest = {
            "format": 1,
            "step": step,
            "values": dict(snapshot.values),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        attempt.write("checkpoints", f"{step:09d}", ".safetensors", data)
        attempt.write("checkpoints", f"{step:09d}", ".json", json.dumps(manifest, indent=1).encode())
        attempt.check()
        self._drop_older(step, attempt, best)

    def _drop_older(self, step: int, attempt: Attempt, best: int | None) -> None:
        """Drop all up to a step but the newest ones and the best, and what an attempt that was shut out still wrote."""
        names = self._names()
        kept = {names[at].removesuffix(".json") for at in names if at == best or at in list(names)[-KEEP:]}
        for name in self._storage.list(f"{self._run}/checkpoints"):
            older = _step(name) <= step and written_by(name) <= attempt.number
            if older and name.partition(".")[0] not in kept:
                self._storage.delete_file(f"{self._run}/checkpoints/{name}")

    def _names(self) -> dict[int, str]:
        """Step → name of the manifest; of two attempts at a step the newer one's."""
        names = standing(self._storage, self._run, "checkpoints")
        return {_step(name): name for name in names if name.endswith(".json")}

    def steps(self) -> list[int]:
        """The steps with a checkpoint, increasing."""
        return list(self._names())

    def address(self, step: int) -> str:
        """Where the tensors of a checkpoint are."""
        return self.addresses()[step]

    def addresses(self) -> dict[int, str]:
        """The same for each step with a checkpoint, increasing, from one look: a run at work drops older ones."""
        stems = {step: name.removesuffix(".json") for step, name in self._names().items()}
        return {
            step: self._storage.address(f"{self._run}/checkpoints/{stem}.safetensors") for step, stem in stems.items()
        }

    def load(self, step: int) -> Snapshot:
        """Read a checkpoint.

        Raises:
            Damaged: it is not what was written.
        """
        try:
            name = self._names()[step].removesuffix(".json")
        except KeyError:
            raise Damaged(f"{self._storage.address(self._run)}: no checkpoint of step {step}") from None
        return read_checkpoint(self._storage, f"{self._run}/checkpoints/{name}")

    def latest(self) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that can be read, and what was wrong with newer ones."""
        faults: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), faults
            except Damaged as fault:
                faults.append(str(fault))
        return None, faults


def read_checkpoint(storage: Storage, stem: str) -> Snapshot:
    """Read the checkpoint whose files are `stem` with `.json` and `.safetensors`.

    Raises:
        Damaged: it is not what was written.
    """
    address = storage.address(f"{stem}.safetensors")
    try:
        manifest: dict[str, Any] = json.loads(storage.read(f"{stem}.json"))
        data = storage.read(f"{stem}.safetensors")
        if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise Damaged(f"{address}: size or checksum differs from its manifest")
        return Snapshot(load(data), manifest["values"])
    except (FileNotFoundError, KeyError, ValueError, SafetensorError) as fault:
        raise Damaged(f"{address}: {fault}") from fault


def _step(name: str) -> int:
    return int(name.partition("-")[0])


def run_folder(study: str, trial: int, seed: int) -> str:
    """The folder of one run below the storage root; without time stamps, so that a restart finds it."""
    return f"{study}/trial-{trial:04d}/seed-{seed}"


def study_of(folder: str) -> str:
    """The study that a run's folder belongs to."""
    return folder.partition("/")[0]
