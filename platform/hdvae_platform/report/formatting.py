"""Numbers as text in a report, rounded to what is known of them."""

from __future__ import annotations

from hdvae_platform.analysis.inference import Interval
from hdvae_platform.display.text import LARGE, between, digits_of, number, signed


def mean_and_limits(value: Interval) -> str:
    """A mean with the limits of its interval.

    >>> mean_and_limits(Interval(2.0, 1.5, 2.5)), mean_and_limits(Interval(2.0, None, None))
    ('2.00 [1.50, 2.50]', '2.00')
    """
    return mean_alone(value) + ("" if value.low is None else f" {limits(value)}")


def mean_alone(value: Interval, sign: str = "") -> str:
    """A mean without its interval; with the sign `+`, for differences.

    >>> mean_alone(Interval(2.126, -10.0, 14.252)), mean_alone(Interval(2.126, None, None), "+")
    ('2', '+2.13')
    """
    digits = _digits(value)
    if digits is None:
        return signed(value.mean) if sign else number(value.mean)
    return f"{round(value.mean, digits) + 0.0:{sign}.{digits}f}"  # no -0.0


def limits(value: Interval, sign: str = "") -> str:
    """The limits of an interval; `—` without any.

    >>> limits(Interval(2.126, -10.0, 14.252), "+"), limits(Interval(0.5, 0.4561, 0.5439))
    ('[-10, +14]', '[0.456, 0.544]')
    """
    digits = _digits(value)
    if digits is None:
        return between(value.low, value.high, signed if sign else number)
    return between(value.low, value.high, lambda limit: f"{limit:{sign}.{digits}f}")


def _digits(value: Interval) -> int | None:
    """The decimals that are known; None where `number` decides."""
    if value.low is None or value.high is None or abs(value.mean) >= LARGE:
        return None
    return digits_of((value.high - value.low) / 2)


def probability(p: float | None) -> str:
    """A p-value.

    >>> probability(0.0312), probability(0.00001), probability(None)
    ('0.031', '<0.001', '—')
    """
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
