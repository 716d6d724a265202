"""The learning curves of a study that is watched: each report is read once, and few at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hdvae_platform.store.journal import Entry, Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.records import Run
from hdvae_platform.store.storage import Storage

SPEED = "train/images_per_second"
"""The cost of a report that the page shows."""


@dataclass(frozen=True)
class Point:
    """What is kept of a report.

    Attributes:
        time: of the report, milliseconds since 1970.
        attempt: the attempt that wrote it.
        values: of the metrics that are watched, NaN where the report has none.
        speed: images per second since the report before; None where it is not known.
    """

    time: int
    attempt: int
    values: tuple[float, ...]
    speed: float | None


@dataclass
class Curve:
    """What has been read of a run's journal.

    Attributes:
        points: step → report, by increasing step.
        of: the attempt and the state of the run when its journal was last read to its end; None before.
        turn: the number of the last reading, by which runs take turns.
        damaged: the steps whose reports are damaged, which are left out.
    """

    points: dict[int, Point] = field(default_factory=dict)
    damaged: set[int] = field(default_factory=set)
    of: tuple[int, str] | None = None
    turn: int = 0

    @property
    def step(self) -> int:
        """The last step that was reported; 0 before the first report."""
        return max(self.points, default=0)

    @property
    def last(self) -> Point | None:
        """The last report; None before there is one."""
        return self.points.get(self.step)

    @property
    def pace(self) -> float | None:
        """Seconds per step, evaluations included, by the reports of the newest attempt; None before it has made two."""
        newest = max((point.attempt for point in self.points.values()), default=0)
        own = [step for step, point in self.points.items() if point.attempt == newest]
        if len(own) < 2:
            return None
        first, last = min(own), max(own)
        return (self.points[last].time - self.points[first].time) / 1000 / (last - first)


class Curves:
    """The curves of a study's runs, read from their journals.

    Args:
        storage: the study's storage.
        study: its name.
        metrics: the metrics that are watched.
    """

    def __init__(self, storage: Storage, study: str, metrics: Sequence[str]) -> None:
        self._storage, self._study, self.metrics = storage, study, tuple(metrics)
        self._curves: dict[tuple[int, int], Curve] = {}
        self._turns = itertools.count(1)

    def of(self, run: Run) -> Curve:
        """What has been read of a run."""
        return self._curves.setdefault((run.trial, run.seed), Curve())

    def read(self, runs: Iterable[Run], most: int) -> int:
        """Read reports that were not read before: first those of runs under way, which take turns.

        The journal of a run that has ended is not opened again once it was read.

        Args:
            runs: the runs to read, the more important first.
            most: the largest number of journals to open and of reports to read, together.

        Returns:
            The number of journals that were not read to their end.
        """
        stale = [run for run in runs if run.attempts and not (run.state.is_terminal and self._is_read(run))]
        for run in sorted(stale, key=lambda run: (True, 0) if run.state.is_terminal else (False, self.of(run).turn)):
            if most <= 0:
                break
            most -= 1 + self._read(run, most - 1)
        return sum(not self._is_read(run) for run in stale)

    def _is_read(self, run: Run) -> bool:
        return self.of(run).of == (run.attempts, run.state)

    def _read(self, run: Run, most: int) -> int:
        """Read at most so many reports of a run; returns how many were read."""
        curve = self.of(run)
        curve.turn = next(self._turns)
        journal = Journal(self._storage, run_folder(self._study, run.trial, run.seed))
        steps = journal.steps()
        new = [step for step in steps if step not in curve.points and step not in curve.damaged]
        found = journal.readable(new[:most])
        curve.points |= {step: self._point(journal, entry) for step, entry in found.items()}
        curve.damaged |= set(new[:most]) - found.keys()
        curve.points = {step: curve.points[step] for step in steps if step in curve.points}
        curve.of = (run.attempts, run.state) if len(new) <= most else None
        return min(len(new), most)

    def _point(self, journal: Journal, entry: Entry) -> Point:
        values = tuple(entry.metrics.get(metric, math.nan) for metric in self.metrics)
        return Point(entry.time, journal.attempt_of(entry.step), values, entry.costs.get(SPEED))


def thinned(steps: Sequence[int], most: int) -> Iterator[int]:
    """At most so many of increasing steps, evenly chosen, the first and the last among them.

    >>> list(thinned(range(10), 4)), list(thinned([5, 6], 4))
    ([0, 3, 6, 9], [5, 6])
    """
    if len(steps) <= most:
        yield from steps
    else:
        yield from (steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most))
