"""The lease of a study: one process at a time drives it, and renews the lease by heartbeats."""

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

from hdvae_platform.store.records import EXPIRY, HEARTBEAT, Records, StudyRecord


def driver_name() -> str:
    """This process as drivers are named: host, process id, and the machine on which the id is valid."""
    return f"{socket.gethostname()} (process {os.getpid()} of {_machine()})"


@cache
def _machine() -> str:
    """A short checksum of where process ids are valid: containers may share a host name, and a boot starts ids anew."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        known = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        known = f"{uuid.getnode()}"
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def dead(record: StudyRecord | None) -> str | None:
    """The driver that holds a study, if its process ran on this machine and has ended; else None."""
    holder = None if record is None else record.driver
    found = re.fullmatch(r"(.*) \(process (\d+) of (\w+)\)", holder or "")
    if found is None or (found[1], found[3]) != (socket.gethostname(), _machine()):
        return None
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return holder
    except PermissionError:  # it is alive, and belongs to another user
        pass
    return None


@contextmanager
def beating(records: Records, study: str, driver: str) -> Iterator[threading.Event]:
    """Send heartbeats from a thread; the yielded event is set when the study is to stop."""
    stop, done = threading.Event(), threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while not done.wait(HEARTBEAT):
            try:
                if records.beat(study, driver):
                    stop.set()
                last = time.monotonic()
            except Exception:  # noqa: BLE001 - whatever it is, no heartbeat was recorded; the next one may be
                if time.monotonic() - last > EXPIRY:  # by now another driver may take over
                    stop.set()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        done.set()
        thread.join()
