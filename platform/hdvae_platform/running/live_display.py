"""Printing while runs train: plain lines and, in a terminal, below them a bar for each run under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from hdvae_platform.running.progress import Echo


class LiveDisplay:
    """Prints lines above bars: one for the whole study, one for each run under way. Used as a context.

    Args:
        console: of a terminal.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
        )
        # What other parts print goes where it went before, into Ray's log say.
        self._bars = Progress(
            *columns,
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._console = console
        self._study: TaskID | None = None
        self._runs: dict[str, TaskID] = {}

    def __enter__(self) -> LiveDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(Text(line), soft_wrap=True)

    def show_study(self, done: int, total: int, note: str) -> None:
        """Show how many runs have ended; `note` says how long the others will take."""
        if self._study is None:
            self._study = self._bars.add_task("runs", total=total, note=note)
        self._bars.update(self._study, completed=done, total=total, note=note)

    def show_run(self, name: str, step: int, steps: int, note: str) -> None:
        """Show how far a run is; `note` is its last value."""
        if name not in self._runs:
            self._runs[name] = self._bars.add_task(name, total=steps, note=note)
        self._bars.update(self._runs[name], completed=step, note=note)

    def hide_run(self, name: str) -> None:
        """Remove the bar of a run that has ended or was cut off."""
        if name in self._runs:
            self._bars.remove_task(self._runs.pop(name))


@contextmanager
def printing(stream: TextIO, *, plain: bool = False) -> Iterator[Echo]:
    """What prints the lines of a study or run: a `LiveDisplay` in a terminal, else plain lines.

    Args:
        stream: standard output or standard error.
        plain: whether to print plain lines in a terminal too.
    """
    console = Console(file=stream, markup=False, emoji=False, highlight=False)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        yield lambda line: _write_line(stream, line)
    else:
        with LiveDisplay(console) as display:
            yield display


def _write_line(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()
