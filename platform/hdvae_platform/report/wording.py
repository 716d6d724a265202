"""How numbers are written in a report."""

from __future__ import annotations

from hdvae_platform.comparison import Interval

LARGE = 1e5
"""From here on hundredths of a nat are no news."""


def number(value: float) -> str:
    """Hundredths; small and large values with their power of ten.

    >>> number(-114.283), number(159500453.6), number(0.0004), number(0.0)
    ('-114.28', '1.60e+08', '4.00e-04', '0.00')
    """
    small = value != 0 and abs(value) < 0.005
    return f"{value:.2e}" if small or abs(value) >= LARGE else f"{value:.2f}"


def signed(value: float) -> str:
    """A difference, with its sign.

    >>> signed(1.5), signed(-0.0004)
    ('+1.50', '-4.00e-04')
    """
    return ("+" if value >= 0 else "") + number(value)


def mean_and_half(found: Interval) -> str:
    """A mean ± half of its interval.

    >>> mean_and_half(Interval(2.0, 1.5, 2.5)), mean_and_half(Interval(2.0, None, None))
    ('2.00 ± 0.50', '2.00')
    """
    return number(found.mean) + ("" if found.high is None else f" ± {number(found.high - found.mean)}")


def limits(low: float | None, high: float | None) -> str:
    """An interval.

    >>> limits(-1.0, 2.0), limits(None, None)
    ('[-1.00, 2.00]', '—')
    """
    return "—" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def probability(p: float | None) -> str:
    """A p-value.

    >>> probability(0.0312), probability(0.00001), probability(None)
    ('0.031', '<0.001', '—')
    """
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
