"""Printing while runs train: plain lines and, in a terminal, below them a live table of the runs under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from hdvae_platform.running.progress import Echo

STUDY = "runs"
"""The name of the row of the whole study."""


class _Rows(Progress):
    """Bars as a table with a header, the whole study in its last row."""

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        table = super().make_tasks_table(sorted(tasks, key=lambda task: task.description == STUDY))
        table.show_header, table.padding = bool(table.rows), (0, 2)
        return table


def _column(text: str, header: str, least: int) -> TextColumn:
    """A column of a text of each row; in a narrow terminal it is at least so wide."""
    return TextColumn(text, markup=False, table_column=Column(header, no_wrap=True, min_width=least))


class LiveDisplay:
    """Prints lines above a live table: a row for each run under way, and one for the whole study. Used as a context.

    Args:
        console: of a terminal.
    """

    def __init__(self, console: Console) -> None:
        # What other parts print goes where it went before, into Ray's log say.
        self._bars = _Rows(
            _column("{task.description}", "run", 10),
            BarColumn(bar_width=12),
            _column("{task.completed:.0f}/{task.total:.0f}", "step", 9),
            _column("{task.fields[note]}", "last report", 18),
            _column("{task.fields[left]}", "left", 10),
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

    def show_study(self, done: int, total: int, left: str) -> None:
        """Show how many runs have ended, and how long the others will take."""
        if self._study is None:
            self._study = self._bars.add_task(STUDY, total=total, note="", left=left)
        self._bars.update(self._study, completed=done, total=total, left=left)

    def show_run(self, name: str, step: int, steps: int, note: str, left: str) -> None:
        """Show how far a run is, what it last reported, and how long it will take."""
        if name not in self._runs:
            self._runs[name] = self._bars.add_task(name, total=steps, note=note, left=left)
        self._bars.update(self._runs[name], completed=step, note=note, left=left)

    def hide_run(self, name: str) -> None:
        """Remove the row of a run that has ended or was cut off."""
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
