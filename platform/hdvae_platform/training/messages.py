"""What a run tells its driver: typed at both ends, JSON-like values on the wire.

A message travels in a report of Ray Tune or, from a group of workers to the process that waits for them, in a queue.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar

from hdvae.errors import BoundViolated, InputError, Interrupted, NonFinite
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.storage import StorageAway

PROCESS_KILLED = "its process was killed"
"""What is said of a run if its process, or one of its workers, ended without a message."""


class EndKind(StrEnum):
    """How a run's process ended its work."""

    COMPLETED = "completed"
    """The run reached its last step."""
    INTERRUPTED = "interrupted"
    """The run was asked to end, or its process is leaving; what it did is kept."""
    FAILED = "failed"
    """The run cannot go on, for a reason that its user can understand: the loss is not finite, say."""
    CRASHED = "crashed"
    """An unexpected error; the text is its traceback. The run may be started again."""
    WORKERS_LOST = "workers_lost"
    """Workers of a group were killed, did not start or do not answer. The run may be started again."""
    STORAGE_AWAY = "storage_away"
    """The storage has been full or unreachable for too long."""
    FENCED = "fenced"
    """A newer attempt has taken over."""


@dataclass(frozen=True)
class Started:
    """The process is up and begins its work."""


@dataclass(frozen=True)
class Resumed:
    """The run goes on from the checkpoint of a step."""

    step: int


@dataclass(frozen=True)
class Reported:
    """The run was evaluated at a step; journal and checkpoint are written."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Warned:
    """Something to tell the user; with `lasting` it is recorded with the run as well."""

    text: str
    lasting: bool = False


@dataclass(frozen=True)
class Ended:
    """The last message of an attempt.

    Attributes:
        how: the kind of end.
        step: the last step that was trained, where the run was interrupted.
        text: the reason, where there is one.
    """

    how: EndKind
    step: int | None = None
    text: str = ""

    OF: ClassVar[tuple[tuple[type[Exception], EndKind], ...]] = (
        (Fenced, EndKind.FENCED),  # an InputError too
        (StorageAway, EndKind.STORAGE_AWAY),
        (NonFinite, EndKind.FAILED),
        (BoundViolated, EndKind.FAILED),
        (InputError, EndKind.FAILED),
    )
    """Exceptions whose text a user understands; every other one is a crash."""

    @staticmethod
    def by(error: Exception) -> Ended:
        """The end that an exception means; to be called where it is handled, for its traceback."""
        if isinstance(error, Interrupted):
            return Ended(EndKind.INTERRUPTED, step=error.step)
        for kind, how in Ended.OF:
            if isinstance(error, kind):
                return Ended(how, text=str(error))
        return Ended(EndKind.CRASHED, text=traceback.format_exc())


Message = Started | Resumed | Reported | Warned | Ended
Notify = Callable[[Message], None]
"""Sends a message to whoever waits for the run."""

_KINDS: dict[str, type[Message]] = {kind.__name__.lower(): kind for kind in (Started, Resumed, Reported, Warned, Ended)}


def to_wire(message: Message) -> dict[str, Any]:
    """A message as JSON-like values.

    >>> to_wire(Resumed(10))
    {'message': 'resumed', 'step': 10}
    """
    return {"message": type(message).__name__.lower(), **asdict(message)}


def from_wire(wire: Mapping[str, Any]) -> Message:
    """The message that `to_wire` wrote.

    >>> from_wire({"message": "ended", "how": "fenced", "text": "attempt 2 has taken over"})
    Ended(how=<EndKind.FENCED: 'fenced'>, step=None, text='attempt 2 has taken over')

    Raises:
        ValueError: the values are no message; driver and run have different versions of this module.
    """
    values = dict(wire)
    try:
        kind = _KINDS[values.pop("message")]
        if kind is Ended:
            values["how"] = EndKind(values["how"])
        return kind(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"unknown message of a run: {dict(wire)}") from error
