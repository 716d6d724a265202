"""What can go wrong in a way the user can mend, and how it is said: one line, what, where, the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NAMED = 20
"""Known words that are named where none is near."""


class InputError(ValueError):
    """Bad input. Its text is one line for the user; commands print it and exit with code 2."""


class NonFinite(ArithmeticError):
    """A quantity of the loss stopped being finite.

    Args:
        step: the optimisation step at which it was seen.
        quantity: its name, with the layer where it has one, e.g. `kl/layer_2`.
    """

    def __init__(self, step: int, quantity: str) -> None:
        super().__init__(step, quantity)
        self.step = step
        self.quantity = quantity

    def __str__(self) -> str:
        return f"non-finite {self.quantity} at step {self.step}"


class BoundViolated(ArithmeticError):
    """A measured quantity is above a bound that is proven: a fault of the program, never of the data.

    Args:
        quantity: what was measured, and where.
        value: its value, nats.
        bound: the certified bound, nats.
    """

    def __init__(self, quantity: str, value: float, bound: float) -> None:
        super().__init__(quantity, value, bound)
        self.quantity, self.value, self.bound = quantity, value, bound

    def __str__(self) -> str:
        return f"{self.quantity} is {self.value:.6g} nats, above its certified bound {self.bound:.6g}: a bug by proof"


class Interrupted(Exception):
    """Training was asked to end, and did: what it had done is kept, and it can go on from there.

    Args:
        step: steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"asked to end after step {self.step}"


class PeerLost(RuntimeError):
    """Another worker of this run does not answer: it failed or was killed, which is told elsewhere."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Name the known word nearest to `word`, as the end of an error line.

    >>> nearest("freebit", ["freebits", "steps"])
    "; did you mean 'freebits'?"
    >>> nearest("zzz", ["b", "a"])
    '; known: a, b'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; known: {', '.join(names[:NAMED])}{more}" if names else ""
