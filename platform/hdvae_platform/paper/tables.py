"""The paper's tables with our numbers beside them, cell by cell."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae_platform.analysis.inference import Interval
from hdvae_platform.display.text import markdown, table
from hdvae_platform.paper.printed import Number, Row, Table

NOT_RUN, NOT_FINITE = "not run", "not finite"


@dataclass(frozen=True)
class Result:
    """Our result for one network.

    Attributes:
        values: metric → mean with its 95% interval.
        run_ids: MLflow's ids of the runs behind it.
        handles: the handles of these runs.
        instead: the text of a cell without a value and without runs.
    """

    values: Mapping[str, Interval]
    run_ids: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()
    instead: str = NOT_RUN


@dataclass(frozen=True)
class Cell:
    """A number of the paper beside ours.

    Attributes:
        place: where the paper prints it.
        printed: the paper's number.
        ours: our number; None if there is none.
        run_ids: MLflow's ids of our runs.
        handles: the handles of our runs.
        instead: the text instead of our number, if there is none.
    """

    place: str
    printed: Number
    ours: Interval | None
    run_ids: tuple[str, ...]
    handles: tuple[str, ...]
    instead: str

    @property
    def difference(self) -> Interval | None:
        """Ours minus the paper's, for which no error is printed."""
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
            "handles": list(self.handles),
            "run_ids": list(self.run_ids),
        }


@dataclass(frozen=True)
class SideBySide:
    """A table of the paper with our numbers beside it.

    Attributes:
        paper: the table.
        rows: its cells.
        ours: head of our columns.
    """

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
        """The table for a terminal."""
        return self._page(table, "  ")

    def markdown(self) -> str:
        """The table as Markdown."""
        return self._page(markdown, "- ")

    def _page(self, form: Any, bullet: str) -> str:
        letters = _FaultLetters()
        rows = [
            [*row.labels[:-1], letters.append_to(row.labels[-1], row.faults)]
            + [part for cell in cells for part in _shown(cell, letters)]
            for row, cells in zip(self.paper.rows, self.rows, strict=True)
        ]
        columns = [head for name in self.paper.columns for head in (f"{name}: paper", self.ours, "ours − paper")]
        title = f"{self.paper.name}: {self.paper.quantity}"
        notes = [f"{bullet}{line}" for line in (*letters.lines(), *self.paper.notes)]
        listed = ["The paper's numbers are given as printed. Faults of the print:", *notes] if notes else []
        return "\n\n".join(filter(None, [title, form([*self.paper.heads, *columns], rows), "\n".join(listed)]))


class _FaultLetters:
    """Letters for the faults of the print, in the order in which they occur."""

    def __init__(self) -> None:
        self._faults: list[str] = []

    def append_to(self, text: str, faults: Sequence[str]) -> str:
        """The text with the letters of its faults."""
        for fault in faults:
            if fault not in self._faults:
                self._faults.append(fault)
        letters = "".join(string.ascii_lowercase[self._faults.index(fault)] for fault in faults)
        return f"{text} {letters}".rstrip()

    def lines(self) -> list[str]:
        return [f"{letter}: {fault}" for letter, fault in zip(string.ascii_lowercase, self._faults, strict=False)]


def side_by_side(printed: Table, results: Mapping[tuple[str, str], Result], ours: str = "ours") -> SideBySide:
    """A table of the paper with our results.

    Args:
        printed: the table.
        results: (data set of the paper, preset) → our result; networks that are missing were not run.
        ours: head of our columns.
    """
    nothing = Result({})

    def cell(row: Row, column: int) -> Cell:
        number = row.numbers[column]
        result = results.get((number.data, number.preset), nothing)
        instead = NOT_FINITE if result.run_ids else result.instead
        ours = result.values.get(number.metric)
        return Cell(printed.place(row, column), number, ours, result.run_ids, result.handles, instead)

    return SideBySide(
        printed, [[cell(row, column) for column in range(len(row.numbers))] for row in printed.rows], ours
    )


def _shown(cell: Cell, letters: _FaultLetters) -> list[str]:
    """The paper's number, ours, and the difference."""
    paper = letters.append_to(_number(cell.printed.value), cell.printed.faults)
    if cell.ours is None or cell.difference is None:
        return [paper, cell.instead, "—"]
    gap = cell.difference
    limits = "" if gap.low is None or gap.high is None else f" [{_number(gap.low, '+')}, {_number(gap.high, '+')}]"
    return [paper, _number(cell.ours.mean), _number(gap.mean, "+") + limits]


def _number(value: float, sign: str = "") -> str:
    """Two decimals, as in the paper; none for megabytes."""
    return f"{value:{sign}.2f}" if abs(value) < 1000 else f"{value:{sign}.0f}"
