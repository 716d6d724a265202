"""The paper's tables with our numbers beside them, cell by cell."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae_platform.analysis.comparison import Interval
from hdvae_platform.display.text import markdown, table
from hdvae_platform.paper.printed import Number, Row, Table

NOT_RUN, NOT_FINITE = "not run", "not finite"


@dataclass(frozen=True)
class Found:
    """What became of one network.

    Attributes:
        values: by metric, with 95% intervals.
        runs: MLflow's ids of the runs that they are of.
        instead: what stands in a cell without a value; where there are runs, theirs was not finite.
    """

    values: Mapping[str, Interval]
    runs: tuple[str, ...] = ()
    instead: str = NOT_RUN


@dataclass(frozen=True)
class Cell:
    """A number of the paper and ours; `ours` is None where there is none, and `instead` says why."""

    place: str
    printed: Number
    ours: Interval | None
    runs: tuple[str, ...]
    instead: str

    @property
    def difference(self) -> Interval | None:
        """Ours minus the paper's, of which no error is printed."""
        if self.ours is None:
            return None
        low, high = (None if end is None else end - self.printed.value for end in (self.ours.low, self.ours.high))
        return Interval(self.ours.mean - self.printed.value, low, high)

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        return {
            "place": self.place,
            "metric": self.printed.metric,
            "preset": self.printed.preset,
            "data": self.printed.data,
            "paper": self.printed.value,
            "faults": list(self.printed.faults),
            "ours": None if self.ours is None else vars(self.ours),
            "difference": None if self.difference is None else vars(self.difference),
            "runs": list(self.runs),
        }


@dataclass(frozen=True)
class Side:
    """A table of the paper with ours beside it; `ours` heads our columns."""

    paper: Table
    rows: Sequence[Sequence[Cell]]
    ours: str = "ours"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        rows = [
            {"labels": dict(zip(self.paper.heads, row.labels, strict=True)), "faults": list(row.faults)}
            | {"cells": [cell.plain() for cell in cells]}
            for row, cells in zip(self.paper.rows, self.rows, strict=True)
        ]
        quantity = {"table": self.paper.name, "quantity": self.paper.quantity}
        return {**quantity, "notes": list(self.paper.notes), "rows": rows}

    def text(self) -> str:
        """For a terminal."""
        return self._page(table, "  ")

    def markdown(self) -> str:
        """The same for a document."""
        return self._page(markdown, "- ")

    def _page(self, grid: Any, bullet: str) -> str:
        marks = _Marks()
        rows = [
            [*row.labels[:-1], marks.put(row.labels[-1], row.faults)]
            + [part for cell in cells for part in _parts(cell, marks)]
            for row, cells in zip(self.paper.rows, self.rows, strict=True)
        ]
        columns = [head for name in self.paper.columns for head in (f"{name}: paper", self.ours, "ours − paper")]
        title = f"{self.paper.name}: {self.paper.quantity}"
        notes = [f"{bullet}{line}" for line in (*marks.lines(), *self.paper.notes)]
        listed = ["The paper's numbers as printed; faults in print:", *notes] if notes else []
        return "\n\n".join(filter(None, [title, grid([*self.paper.heads, *columns], rows), "\n".join(listed)]))


class _Marks:
    """Letters for the faults that were met, in their order."""

    def __init__(self) -> None:
        self._met: list[str] = []

    def put(self, text: str, faults: Sequence[str]) -> str:
        for fault in faults:
            if fault not in self._met:
                self._met.append(fault)
        letters = "".join(string.ascii_lowercase[self._met.index(fault)] for fault in faults)
        return f"{text} {letters}".rstrip()

    def lines(self) -> list[str]:
        return [f"{letter}: {fault}" for letter, fault in zip(string.ascii_lowercase, self._met, strict=False)]


def beside(printed: Table, found: Mapping[tuple[str, str], Found], ours: str = "ours") -> Side:
    """A table of the paper with what was found.

    Args:
        printed: the table.
        found: (the paper's data set, preset) → what became of it; what is not in it was not run.
        ours: heads our columns.
    """
    nothing = Found({})

    def cell(row: Row, column: int) -> Cell:
        number = row.numbers[column]
        one = found.get((number.data, number.preset), nothing)
        instead = NOT_FINITE if one.runs else one.instead
        return Cell(printed.place(row, column), number, one.values.get(number.metric), one.runs, instead)

    return Side(printed, [[cell(row, column) for column in range(len(row.numbers))] for row in printed.rows], ours)


def _parts(cell: Cell, marks: _Marks) -> list[str]:
    shown = marks.put(_number(cell.printed.value), cell.printed.faults)
    if cell.ours is None or cell.difference is None:
        return [shown, cell.instead, "—"]
    gap = cell.difference
    limits = "" if gap.low is None or gap.high is None else f" [{_number(gap.low, '+')}, {_number(gap.high, '+')}]"
    return [shown, _number(cell.ours.mean), _number(gap.mean, "+") + limits]


def _number(value: float, sign: str = "") -> str:
    """Hundredths, as in the paper; of megabytes none."""
    return f"{value:{sign}.2f}" if abs(value) < 1000 else f"{value:{sign}.0f}"
