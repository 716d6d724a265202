"""What a person sees while a study runs: one line at a time, as good in a log file as in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from hdvae_platform.display.text import duration

EVERY = 10.0
"""Seconds between lines while nothing ends."""


class Progress:
    """Counts steps and runs, and says how far the study is and how long it will take.

    Args:
        metric: the metric to show.
        steps: of one run.
        total: runs of the study.
        done: runs that had ended before.
        echo: prints a line.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        metric: str,
        steps: int,
        total: int,
        done: int,
        echo: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric, self._steps, self._total, self._done = metric, steps, total, done
        self._echo, self._clock = echo, clock
        self._start = self._last = clock()
        self._at: dict[str, int] = {}
        self._first: float | None = None
        self._trained = 0

    def began(self, name: str, step: int) -> None:
        """A run starts, or goes on from a step."""
        self._at[name] = step
        if step:
            self._line(f"{name} goes on from step {step}")

    def moved(self, name: str, step: int, value: float | None) -> None:
        """A run reported."""
        if self._first is None:
            self._first = self._clock()  # what came before was start-up, not training
        else:
            self._trained += step - self._at.get(name, 0)
        self._at[name] = step
        if step < self._steps and self._clock() - self._last >= EVERY:
            shown = "" if value is None else f" {self._metric} {value:.2f}"
            self._line(f"{name} step {step}/{self._steps}{shown}")

    def expect(self, total: int) -> None:
        """The study will have more or fewer runs than was thought."""
        self._total = total

    def ended(self, name: str, outcome: str) -> None:
        """A run ended."""
        self._at.pop(name, None)
        self._done += 1
        self._line(f"{name} {outcome}")

    def interrupted(self, name: str) -> None:
        """A run was cut off."""
        self._at.pop(name, None)

    def say(self, text: str) -> None:
        """Anything else."""
        self._line(text)

    def time_left(self) -> float | None:
        """Seconds until the end at the pace so far; None before there is one."""
        elapsed = 0.0 if self._first is None else self._clock() - self._first
        if not self._trained or not elapsed:
            return None
        left = (self._total - self._done) * self._steps - sum(self._at.values())
        return left * elapsed / self._trained

    def _line(self, text: str) -> None:
        self._last = self._clock()
        elapsed = int(self._clock() - self._start)
        left = self.time_left()
        rest = f" · about {duration(left)} left" if left is not None and self._done < self._total else ""
        self._echo(f"[{elapsed // 60:02d}:{elapsed % 60:02d}] runs {self._done}/{self._total} · {text}{rest}")
