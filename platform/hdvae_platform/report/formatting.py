"""How numbers are written in a report."""

from __future__ import annotations

from hdvae_platform.analysis.inference import Interval
from hdvae_platform.display.text import number


def mean_and_half(found: Interval) -> str:
    """A mean ± half of its interval.

    >>> mean_and_half(Interval(2.0, 1.5, 2.5)), mean_and_half(Interval(2.0, None, None))
    ('2.00 ± 0.50', '2.00')
    """
    return number(found.mean) + ("" if found.high is None else f" ± {number(found.high - found.mean)}")


def probability(p: float | None) -> str:
    """A p-value.

    >>> probability(0.0312), probability(0.00001), probability(None)
    ('0.031', '<0.001', '—')
    """
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
