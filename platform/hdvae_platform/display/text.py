"""Plain text for terminals and log files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LARGE = 1e5
"""Numbers from here on are written with a power of ten: their hundredths mean nothing."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table: numbers are aligned to the right, words to the left.

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
    """A Markdown table: the first column is aligned to the left, the others to the right.

    >>> print(markdown(["arm", "elbo"], [["a", "-90.1"]]))
    | arm | elbo |
    |---|---:|
    | a | -90.1 |
    """
    rule = "|".join(["---"] + ["---:"] * (len(header) - 1))
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {line} |" for line in lines)])


def short_path(path: Path) -> str:
    """A path as a user would type it: relative to the working folder where it is in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "trial"), counted(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(7), duration(125), duration(7260)
    ('7 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float) -> str:
    """A number with two decimals; very small and very large ones with a power of ten.

    >>> number(-114.283), number(159500453.6), number(0.0004), number(0.0)
    ('-114.28', '1.60e+08', '4.00e-04', '0.00')
    """
    small = value != 0 and abs(value) < 0.005
    return f"{value:.2e}" if small or abs(value) >= LARGE else f"{value:.2f}"


def rounded(value: float, error: float | None) -> str:
    """A value ± its uncertainty, rounded to two digits of the latter, as far as it is larger than its hundredths.

    >>> rounded(-141.8366, 4.2669), rounded(-111.4772, 0.3162), rounded(0.512345, 0.0123), rounded(-200.2, 63.5)
    ('-141.8 ± 4.3', '-111.48 ± 0.32', '0.512 ± 0.012', '-200 ± 64')
    >>> rounded(-90.123, None), rounded(2e6, 3e5), rounded(0.0004, 0.0), rounded(0.0, 0.0)
    ('-90.12', '2.00e+06 ± 3.00e+05', '4.00e-04 ± 0.00', '0.00 ± 0.00')
    """
    if error is None:
        return number(value)
    digits = digits_of(error)
    if digits is None or abs(value) >= LARGE:
        return f"{number(value)} ± {number(error)}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def digits_of(error: float) -> int | None:
    """The decimals that show two digits of an uncertainty; None where it is too small or large to be written so.

    >>> digits_of(4.27), digits_of(63.5), digits_of(0.0123), digits_of(0.00001), digits_of(0.0)
    (1, 0, 3, None, None)
    """
    if not 5e-4 <= error < LARGE:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


def signed(value: float) -> str:
    """A number with its sign, for differences.

    >>> signed(1.5), signed(-0.0004)
    ('+1.50', '-4.00e-04')
    """
    return ("+" if value >= 0 else "") + number(value)


def percent(share: float) -> str:
    """A share in percent, three digits of what is left to 0 or 100%.

    >>> percent(0.025), percent(0.05 / 12), percent(1 - 0.05 / 12), percent(1 - 0.05 / 180)
    ('2.5%', '0.417%', '99.58%', '99.97%')
    """
    return f"{100 * share:.3g}%" if share < 0.5 else f"{100 * share:.4g}%"


def between(low: float | None, high: float | None, show: Callable[[float], str] = number) -> str:
    """An interval; `—` if it has no limits.

    >>> between(-1.0, 2.0), between(-1.0, 2.0, signed), between(None, None)
    ('[-1.00, 2.00]', '[-1.00, +2.00]', '—')
    """
    return "—" if low is None or high is None else f"[{show(low)}, {show(high)}]"


def brief(value: Any) -> str:
    """The value of a setting as text, fractions with four digits.

    >>> brief([[0, 0.8], [100, 0.1]]), brief("normal"), brief(0.123456)
    ('0.8→0.1 at 100', 'normal', '0.1235')
    >>> brief({"start": 0.8, "end": 0.2, "steps": 400, "shape": "cosine"})
    '0.8→0.2 over 400, cosine'
    """
    if isinstance(value, dict) and value.keys() == {"start", "end", "steps", "shape"}:
        start, end, steps = (brief(value[key]) for key in ("start", "end", "steps"))
        return f"{start}→{end} over {steps}, {value['shape']}"
    if isinstance(value, list) and value and all(isinstance(point, list) and len(point) == 2 for point in value):
        (step, start), *rest = value
        first = f"{start:.4g}" + (f" at {step:g}" if step or not rest else "")
        return "→".join([first, *(f"{v:.4g} at {step:g}" for step, v in rest)])
    return value if isinstance(value, str) else json.dumps(_rounded(value))


def _rounded(value: Any) -> Any:
    """A JSON-like value with its fractions rounded to four digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
