"""Who drives a study: one process at a time, which gives signs of life."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from hdvae_platform.store.records import EXPIRY, HEARTBEAT, Records, StudyRecord


def driver_name() -> str:
    """This process, for people and for the next driver: host, process id, and where that id means this process."""
    return f"{socket.gethostname()} (process {os.getpid()} of {_machine()})"


@cache
def _machine() -> str:
    """A short name of what numbers this process: containers may share a host name, and boots number anew."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        known = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        known = f"{uuid.getnode()}"
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def dead(record: StudyRecord | None) -> str | None:
    """The driver that holds a study, if its process was of this machine and is no more."""
    holder = None if record is None else record.driver
    found = re.fullmatch(r"(.*) \(process (\d+) of (\w+)\)", holder or "")
    if found is None or (found[1], found[3]) != (socket.gethostname(), _machine()):
        return None
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return holder
    except PermissionError:  # it lives, and is another user's
        pass
    return None


@contextmanager
def beating(records: Records, study: str, driver: str) -> Iterator[threading.Event]:
    """Signs of life from a thread; the event is set when the study is to stop."""
    stop, done = threading.Event(), threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while not done.wait(HEARTBEAT):
            try:
                if records.beat(study, driver):
                    stop.set()
                last = time.monotonic()
            except SQLAlchemyError:
                if time.monotonic() - last > EXPIRY:  # by now another driver may take over
                    stop.set()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        done.set()
        thread.join()
