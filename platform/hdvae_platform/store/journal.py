"""The journal of a run on the study's storage: the metrics of each report.

    NAME/trial-0007/seed-0/journal/000000300-0001.json        metrics, time and costs of one report, by attempt 1

Only valid files are used (`hdvae.training.run_files`), and every file is complete or absent. The entry of a
step is written before its checkpoint, and never again: a run that repeats a step after a crash computes the same
values, and the first time stamp stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hdvae.errors import Damaged
from hdvae.training.run_files import standing, step_of, written_by
from hdvae.training.sealed import seal, unseal
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.layout import JOURNAL
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.search_config import Direction


@dataclass(frozen=True)
class Goal:
    """How the checkpoints of a run are compared: by a metric of its reports, and whether higher or lower is better."""

    metric: str = "valid/elbo"
    direction: Direction = "maximize"


ELBO = Goal()
"""The default: the highest ELBO on validation images."""


@dataclass(frozen=True)
class Entry:
    """One report.

    Attributes:
        step: the number of optimisation steps done.
        time: the time of the report, milliseconds since 1970.
        metrics: metrics by their full names, the same for every attempt at this step.
        costs: what the steps since the last report cost (`hdvae.evaluation.metrics.COSTS`).
    """

    step: int
    time: int
    metrics: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)


class Journal:
    """The metrics of one run; MLflow is filled from them, now or later.

    Args:
        storage: where the run is.
        run: the folder of the run.
        clock: seconds since 1970; replaced where training is simulated.
        names: its valid files, where they have been looked up: the journal as it was then.
    """

    def __init__(
        self,
        storage: Storage,
        run: str,
        clock: Callable[[], float] = time.time,
        names: Sequence[str] | None = None,
    ) -> None:
        self._storage, self._run, self._clock, self._given = storage, run, clock, names
        self._names: dict[int, str] = {}

    def append(self, step: int, metrics: Mapping[str, float], costs: Mapping[str, float], attempt: Attempt) -> None:
        """Record a report, unless its step is recorded already and can be read.

        Raises:
            Fenced: a newer attempt has begun.
        """
        if step in self.steps() and self.readable([step]):
            return
        entry, stem = Entry(step, int(1000 * self._clock()), dict(metrics), dict(costs)), f"{step:09d}"
        attempt.write(JOURNAL, stem, ".json", seal(self._run, attempt.file(JOURNAL, stem, ".json"), vars(entry)))

    def steps(self) -> list[int]:
        """The recorded steps, increasing."""
        names = standing(self._storage, self._run, JOURNAL, self._run) if self._given is None else self._given
        self._names = {step_of(name): name for name in names}
        return list(self._names)

    def steps_by(self, attempt: int) -> list[int]:
        """The steps that were first reported by an attempt, increasing."""
        return [step for step in self.steps() if self.attempt_of(step) == attempt]

    def attempt_of(self, step: int) -> int:
        """The attempt that first reported a step, which `steps` has listed."""
        return written_by(self._names[step])

    def entry(self, step: int) -> Entry:
        """The report of a recorded step.

        Raises:
            KeyError: the step is not recorded.
            Damaged: its file is damaged.
        """
        if step not in self._names:
            self.steps()
        name = f"{JOURNAL}/{self._names[step]}"
        path = f"{self._run}/{name}"
        return Entry(**unseal(self._storage.read(path), self._storage.address(path), name, self._run).content)

    def readable(self, steps: Iterable[int]) -> dict[int, Entry]:
        """The reports of recorded steps; the user is told of damaged ones, which are left out."""
        entries = {}
        for step in steps:
            try:
                entries[step] = self.entry(step)
            except Damaged as fault:
                self._storage.warn(f"{fault}; the report is passed over")
        return entries

    def best(self, goal: Goal, among: Iterable[int]) -> int | None:
        """The step with the best finite value of the goal's metric, the earliest of equals; None if none has one."""
        reported = sorted(set(among) & set(self.steps()))
        entries = self.readable(reported)
        values = {step: entry.metrics.get(goal.metric, math.nan) for step, entry in entries.items()}
        finite = [step for step in values if math.isfinite(values[step])]
        sign = 1 if goal.direction == "maximize" else -1
        return max(finite, key=lambda step: sign * values[step], default=None)
