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

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hdvae.checkpoints import Damaged, encode, newest, read_checkpoint, standing, stems, step_of, written_by
from hdvae.training import Snapshot
from hdvae_platform.fencing import Attempt
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
        self._names = {step_of(name): name for name in standing(self._storage, self._run, "journal")}
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
        data, manifest = encode(snapshot, step)
        attempt.write("checkpoints", f"{step:09d}", ".safetensors", data)
        attempt.write("checkpoints", f"{step:09d}", ".json", manifest)
        attempt.check()
        self._drop_older(step, attempt, best)

    def _drop_older(self, step: int, attempt: Attempt, best: int | None) -> None:
        """Drop all up to a step but the newest ones and the best, and what an attempt that was shut out still wrote."""
        there = stems(self._storage, self._run)
        kept = {there[at] for at in there if at == best or at in list(there)[-KEEP:]}
        for name in self._storage.list(f"{self._run}/checkpoints"):
            older = step_of(name) <= step and written_by(name) <= attempt.number
            if older and name.partition(".")[0] not in kept:
                self._storage.delete_file(f"{self._run}/checkpoints/{name}")

    def steps(self) -> list[int]:
        """The steps with a checkpoint, increasing."""
        return list(stems(self._storage, self._run))

    def address(self, step: int) -> str:
        """Where the tensors of a checkpoint are."""
        return self.addresses()[step]

    def addresses(self) -> dict[int, str]:
        """The same for each step with a checkpoint, increasing, from one look: a run at work drops older ones."""
        return {
            step: self._storage.address(f"{self._run}/checkpoints/{stem}.safetensors")
            for step, stem in stems(self._storage, self._run).items()
        }

    def load(self, step: int) -> Snapshot:
        """Read a checkpoint.

        Raises:
            Damaged: it is not what was written.
        """
        stem = stems(self._storage, self._run).get(step)
        if stem is None:
            raise Damaged(f"{self._storage.address(self._run)}: no checkpoint of step {step}")
        return read_checkpoint(self._storage, f"{self._run}/checkpoints/{stem}")

    def latest(self) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that can be read, and what was wrong with newer ones."""
        return newest(self._storage, self._run)


def run_folder(study: str, trial: int, seed: int) -> str:
    """The folder of one run below the storage root; without time stamps, so that a restart finds it."""
    return f"{study}/trial-{trial:04d}/seed-{seed}"


def study_of(folder: str) -> str:
    """The study that a run's folder belongs to."""
    return folder.partition("/")[0]
