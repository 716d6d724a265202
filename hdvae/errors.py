"""Errors that a user can do something about. Each message is one line: what is wrong, where, and what to do instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LISTED = 20
"""Largest number of known words that a message lists if none is similar."""


class InputError(ValueError):
    """Wrong input. The message is one line for the user; commands print it and exit with code 2."""


class Damaged(InputError):
    """A file is not what was written, or belongs elsewhere. The message names it, and says how it differs."""


class NonFinite(ArithmeticError):
    """A quantity of the loss is not finite.

    Args:
        step: the optimisation step.
        quantity: the name of the quantity, with its layer if it has one, e.g. `kl/layer_2`.
    """

    def __init__(self, step: int, quantity: str) -> None:
        super().__init__(step, quantity)
        self.step = step
        self.quantity = quantity

    def __str__(self) -> str:
        return f"non-finite {self.quantity} at step {self.step}"


class BoundViolated(ArithmeticError):
    """A measured quantity is above a proven bound, which can only be a bug in the program.

    Args:
        quantity: the name of the quantity, and where it was measured.
        value: its value, nats.
        bound: the certified bound, nats.
    """

    def __init__(self, quantity: str, value: float, bound: float) -> None:
        super().__init__(quantity, value, bound)
        self.quantity, self.value, self.bound = quantity, value, bound

    def __str__(self) -> str:
        excess = f"{self.quantity} is {self.value:.6g} nats, above its certified bound {self.bound:.6g}"
        return f"{excess}: the bound is proven, so this is a bug in hdvae; please report it"


class Interrupted(Exception):
    """Training stopped because it was asked to. All finished steps are saved, and it can resume from there.

    Args:
        step: the number of finished steps.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"stopped on request after step {self.step}"


class PeerLost(RuntimeError):
    """Another worker of this run does not answer. It failed or was killed; its own error is reported elsewhere."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message that names the most similar known word, first of all the same in other case.

    >>> nearest("freebit", ["freebits", "steps"]), nearest("valid/ELBO", ["valid/kl", "valid/elbo"])
    ("; did you mean 'freebits'?", "; did you mean 'valid/elbo'?")
    >>> nearest("zzz", ["b", "a"])
    '; known: a, b'
    >>> nearest("zzz", ["16", "256", "64"])
    '; known: 16, 64, 256'
    """
    names = sorted(known, key=_order)
    same = [name for name in names if name.casefold() == word.casefold()]
    close = same or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"; known: {', '.join(names[:LISTED])}{more}" if names else ""


def _order(word: str) -> tuple[bool, float, str]:
    """Numbers come first, by their size."""
    is_number = re.fullmatch(r"-?\d+(\.\d+)?", word) is not None
    return not is_number, float(word) if is_number else 0.0, word


def reason_of(error: Exception) -> str:
    """Why an operation failed, in one line, without the path that the text of an OSError repeats.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "images.npz"))
    'No such file or directory'
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
