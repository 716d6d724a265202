"""Notice that a run is to end: looked for in the background, so that asking before every step costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

EVERY = 1.0
"""Seconds between two looks."""


class Notice:
    """Looks at its sources now and again, from its beginning to its end as a context, until one of them says yes.

    Args:
        sources: each says whether the run is to end.
    """

    def __init__(self, *sources: Callable[[], bool]) -> None:
        self._sources = sources
        self._given, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="notices", daemon=True)

    def __enter__(self) -> Notice:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def given(self) -> bool:
        """Whether notice was given, at the last look."""
        return self._given.is_set()

    def _watch(self) -> None:
        while not any(source() for source in self._sources):
            if self._done.wait(EVERY):
                return
        self._given.set()
