"""Watches for requests to stop a run in the background, so that asking before every step costs nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

POLL_SECONDS = 1.0
"""Seconds between two looks at the sources."""
_LOG = logging.getLogger(__name__)


class StopWatcher:
    """Polls its sources, as long as its context lasts, until one of them says that the run is to stop.

    A source that raises has not answered: the others are asked all the same, and at the next look it is asked again.

    Args:
        sources: each says whether the run is to stop.
    """

    def __init__(self, *sources: Callable[[], bool]) -> None:
        self._sources = sources
        self._failed: set[Callable[[], bool]] = set()
        self._requested, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watcher", daemon=True)

    def __enter__(self) -> StopWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def stop_requested(self) -> bool:
        """Whether a source said so, at the last look."""
        return self._requested.is_set()

    def _watch(self) -> None:
        while not any(self._says_so(source) for source in self._sources):
            if self._closed.wait(POLL_SECONDS):
                return
        self._requested.set()

    def _says_so(self, source: Callable[[], bool]) -> bool:
        try:
            return source()
        except Exception:  # noqa: BLE001 - logged; whatever it is, the source has not answered
            if source not in self._failed:  # once: it may fail every second
                _LOG.exception("a look for requests to stop failed; it is repeated")
            self._failed.add(source)
            return False
