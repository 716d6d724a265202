"""What a person sees while a study runs: how far it is, line by line, and in a terminal as a live table too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from hdvae_platform.display.text import duration

Echo = Callable[[str], None]
"""Prints a line."""
LINE_EVERY = 10.0
"""Seconds between lines while no run ends."""


@runtime_checkable
class Rows(Protocol):
    """What an `Echo` may have beside its lines: a row for the study and one for each run (`running.live_display`)."""

    def show_study(self, done: int, total: int, left: str) -> None:
        """Show how many runs have ended, and how long the others will take."""

    def show_run(self, name: str, step: int, steps: int, note: str, left: str) -> None:
        """Show how far a run is, what it last reported, and how long it will take."""

    def hide_run(self, name: str) -> None:
        """Remove the row of a run."""


class Progress:
    """Counts steps and runs, and prints how far the study is and how long it will take.

    Args:
        metric: the metric to show.
        steps: the steps of one run.
        total: the number of runs of the study.
        done: the number of runs that had ended before.
        echo: prints a line; if it has `Rows`, the runs under way are shown there and not in lines.
        clock: the time in seconds; replaced in tests.
    """

    def __init__(
        self,
        metric: str,
        steps: int,
        total: int,
        done: int,
        echo: Echo,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric, self._steps, self._total, self._done = metric, steps, total, done
        self._echo, self._clock = echo, clock
        self._rows = echo if isinstance(echo, Rows) else None
        self._start = self._last = clock()
        self._at: dict[str, int] = {}
        self._since: dict[str, tuple[int, float]] = {}
        self._first: float | None = None
        self._trained = 0

    def began(self, name: str, step: int) -> None:
        """A run starts, or resumes from a step."""
        self._at[name] = step
        self._since.pop(name, None)
        self._show_run(name, "")
        if step:
            self._line(f"{name} goes on from step {step}")

    def moved(self, name: str, step: int, value: float | None) -> None:
        """A run reported the value of the metric at a step."""
        if self._first is None:
            self._first = self._clock()  # what came before was start-up, not training
        else:
            self._trained += step - self._at.get(name, 0)
        self._at[name] = step
        self._since.setdefault(name, (step, self._clock()))
        shown = "" if value is None else f"{self._metric} {value:.2f}"
        self._show_run(name, shown)
        if self._rows is None and step < self._steps and self._clock() - self._last >= LINE_EVERY:
            self._line(f"{name} step {step}/{self._steps} {shown}".rstrip())

    def expect(self, total: int) -> None:
        """The study will have this many runs, as far as is known now."""
        self._total = total

    def ended(self, name: str, outcome: str) -> None:
        """A run ended."""
        self._done += 1
        self._remove(name)
        self._line(f"{name} {outcome}")

    def interrupted(self, name: str) -> None:
        """A run was cut off."""
        self._remove(name)

    def say(self, text: str) -> None:
        """Print anything else."""
        self._line(text)

    def time_left(self) -> float | None:
        """Seconds until the end at the pace so far; None before there is one."""
        elapsed = 0.0 if self._first is None else self._clock() - self._first
        if not self._trained or not elapsed:
            return None
        left = (self._total - self._done) * self._steps - sum(self._at.values())
        return left * elapsed / self._trained

    def _time_left_of(self, name: str) -> float | None:
        """Seconds until a run's last step, at its pace since its first report; None before it has made two."""
        step, since = self._since.get(name, (self._at[name], 0.0))
        done = self._at[name] - step
        return (self._steps - self._at[name]) * (self._clock() - since) / done if done else None

    def _remove(self, name: str) -> None:
        self._at.pop(name, None)
        self._since.pop(name, None)
        if self._rows is not None:
            self._rows.hide_run(name)

    def _show_run(self, name: str, note: str) -> None:
        if self._rows is not None:
            left = _shown(self._time_left_of(name))
            self._rows.show_run(name, self._at[name], self._steps, note, left)
            self._show_study()

    def _show_study(self) -> None:
        if self._rows is not None:
            self._rows.show_study(self._done, self._total, self._left())

    def _left(self) -> str:
        return _shown(self.time_left()) if self._done < self._total else ""

    def _line(self, text: str) -> None:
        self._last = self._clock()
        elapsed = int(self._clock() - self._start)
        left = self._left()
        rest = f" · about {left} left" if left else ""
        self._echo(f"[{elapsed // 60:02d}:{elapsed % 60:02d}] runs {self._done}/{self._total} · {text}{rest}")
        self._show_study()


def _shown(left: float | None) -> str:
    return "" if left is None else duration(left)


class EvaluationProgress:
    """Shows how far an evaluation is, and how long it will take: a row in a terminal, else lines.

    Args:
        name: of what is evaluated.
        echo: prints a line; if it has `Rows`, the evaluation is shown there and not in lines.
        clock: the time in seconds; replaced in tests.
    """

    def __init__(self, name: str, echo: Echo, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._echo, self._clock = name, echo, clock
        self._start = self._last = clock()

    def __call__(self, done: int, total: int) -> None:
        """This many images are done."""
        now = self._clock()
        left = duration((now - self._start) * (total - done) / done)
        if isinstance(self._echo, Rows):
            self._echo.show_run(self._name, done, total, "", left)
        elif done < total and now - self._last >= LINE_EVERY:
            self._last = now
            self._echo(f"{self._name}: {done} of {total} images · about {left} left")
