"""Plain text for terminals and log files."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under a header: numbers to the right, words to the left.

    >>> print(table(["arm", "elbo", "note"], [["a", "-90.1", "x"], ["bb", "-100.2", "yz"]]))
    arm    elbo  note
    ---  ------  ----
    a     -90.1  x
    bb   -100.2  yz
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    widths = [max(map(len, [name, *column])) for name, column in zip(header, columns, strict=True)]
    numeric = [bool(column) and all(re.match(r"[-+[—]|\d", cell) for cell in column) for column in columns]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table; the first column is words, the others are numbers.

    >>> print(markdown(["arm", "elbo"], [["a", "-90.1"]]))
    | arm | elbo |
    |---|---:|
    | a | -90.1 |
    """
    rule = "|".join(["---"] + ["---:"] * (len(header) - 1))
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {line} |" for line in lines)])


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(7), duration(125), duration(7260)
    ('7 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
