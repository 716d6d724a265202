"""Numbers as text in a report."""

from __future__ import annotations

from hdvae_platform.analysis.inference import Interval
from hdvae_platform.display.text import between, number


def mean_and_limits(value: Interval) -> str:
    """A mean with the limits of its interval.

    >>> mean_and_limits(Interval(2.0, 1.5, 2.5)), mean_and_limits(Interval(2.0, None, None))
    ('2.00 [1.50, 2.50]', '2.00')
    """
    return number(value.mean) + ("" if value.low is None else f" {between(value.low, value.high)}")


def probability(p: float | None) -> str:
    """A p-value.

    >>> probability(0.0312), probability(0.00001), probability(None)
    ('0.031', '<0.001', '—')
    """
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
