"""The thread that sends records to MLflow, so that training goes on while the server is slow or away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from hdvae_platform.store.places import Places
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import first_line, is_transient, unreachable

SERVER_WAIT = 60.0
"""Seconds to wait at the end of a study for a server that is away."""
RETRY_INTERVAL = 2.0
"""Seconds between attempts to reach the server."""


class Tracker:
    """Sends records to MLflow in order, from one thread; each is repeated until the server has it.

    What could not be sent by the end is sent by the next `study run`.

    Args:
        places: where MLflow is.
        warn: called once when the server goes away, and once when it answers again.
    """

    def __init__(self, places: Places, warn: Callable[[str], None]) -> None:
        self._places, self._warn = places, warn
        self._jobs: queue.Queue[Callable[[Client], object] | None] = queue.Queue()
        self._give_up = threading.Event()
        self._client: Client | None = None
        self._complete, self._is_through = True, False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def send(self, job: Callable[[Client], object]) -> None:
        """Queue a job. It may run more than once, so running it twice must have the effect of running it once."""
        self._jobs.put(job)

    def close(self, wait: float) -> bool:
        """Wait for the queued jobs, as long as one is done every `wait` seconds.

        Returns:
            Whether MLflow took all of them.
        """
        self._jobs.put(None)
        left, since = self._jobs.qsize(), time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < wait:
            self._thread.join(0.2)
            if self._jobs.qsize() != left:
                left, since = self._jobs.qsize(), time.monotonic()
        self._give_up.set()
        self._thread.join(RETRY_INTERVAL + 1)
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether MLflow took every job; known once the tracker is closed."""
        return self._complete and self._is_through

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._do(job):
                self._complete = False
        self._is_through = True

    def _do(self, job: Callable[[Client], object]) -> bool:
        """Do a job, repeating it while the server is away; returns whether it was done in the end."""
        away = False
        while not self._give_up.is_set():
            try:
                self._client = self._client or Client(self._places)
                job(self._client)
            except Exception as fault:  # noqa: BLE001 - reported and counted; the jobs after it must still be done
                if not is_transient(fault):
                    self._warn(f"MLflow did not take a record: {first_line(fault)}")
                    return False
                if not away:
                    self._warn(f"{unreachable(self._places.tracking, fault)}; training does not wait for it")
                away = True
                self._give_up.wait(RETRY_INTERVAL)
            else:
                if away:
                    self._warn("MLflow answers again")
                return True
        return False
