"""Checks of this machine, its cluster, tracking server, database and storage, with a remedy for each problem.

Each check tries the real thing: it computes, writes or connects. It returns a line about the result, or raises an error
that says what to do.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from hdvae.errors import InputError
from hdvae_platform.cluster import probe
from hdvae_platform.cluster.address import LOCAL
from hdvae_platform.display.text import duration
from hdvae_platform.store import database, datasets, records
from hdvae_platform.store.places import Places, redacted
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.tracking.names import Tag
from hdvae_platform.tracking.server import server

SKEW = 5.0
"""Seconds by which two clocks may differ."""
DATABASE_WAIT = 10
"""Seconds for a database to answer."""
GPU = Path("/dev/nvidia0")
"""The device file of a GPU, which exists whatever software is installed."""


class Unfit(InputError):
    """A part that cannot do the job; the text says what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        name: of the part.
        ok: whether it can do the job.
        says: the result, or what to do.
    """

    name: str
    ok: bool
    says: str


def examine(places: Places, address: str | None = None) -> list[Finding]:
    """Check every part.

    Args:
        places: the addresses of the study store.
        address: HOST:PORT of a Ray cluster; without it Ray is started on this machine for a moment.
    """
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(DATABASE_WAIT))  # of libpq, which else waits for minutes
    checks: dict[str, Callable[[], str]] = {
        "Python": check_python,
        "versions": check_versions,
        "torch": check_torch,
        "GPU": check_gpu,
        "Ray": lambda: check_ray(address),
        "storage": lambda: check_storage(places),
        "database": lambda: check_database(places),
        "tracking": lambda: check_tracking(places),
        "data": lambda: check_data(places),
        "clock": lambda: check_clock(places),
    }
    return [_finding(name, check) for name, check in checks.items()]


def plain(findings: list[Finding]) -> dict[str, Any]:
    """The findings as JSON-like values."""
    return {"ok": all(one.ok for one in findings), "checks": [asdict(one) for one in findings]}


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (InputError, OSError, RuntimeError) as fault:  # torch raises RuntimeError for a GPU that fails
        return Finding(name, False, " ".join(str(fault).split()))


def check_python() -> str:
    """Reports the version of Python; an older one could not have imported this module."""
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"


def check_versions() -> str:
    """Checks that every required package is installed in an allowed version."""
    wrong, checked = [], 0
    for text in importlib.metadata.requires("hdvae") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        checked += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, must be {requirement.specifier}")
    if wrong:
        raise Unfit(f"{'; '.join(wrong)}: `{Path(sys.executable).name} -m pip install --upgrade hdvae`")
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "mlflow", "optuna"))
    return f"{shown}; all {checked} packages have allowed versions"


def check_torch() -> str:
    """Checks that torch multiplies matrices correctly."""
    ones = torch.ones(64, 64)
    if not torch.equal(ones @ ones, 64 * ones):
        raise Unfit(f"torch {torch.__version__} multiplies matrices incorrectly on this CPU: install another build")
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def check_gpu(device: Path = GPU) -> str:
    """Checks that every GPU computes. A machine without a GPU passes; one with a GPU that torch cannot use fails."""
    if not torch.cuda.is_available():
        if device.exists():
            build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
            raise Unfit(
                f"{device} exists, but torch {torch.__version__} ({build}) cannot use it: "
                "install the torch build for this driver (`nvidia-smi` names its CUDA version)"
            )
        return "none on this machine: only studies with `gpus_per_worker: 0` run"
    names = []
    for index in range(torch.cuda.device_count()):
        torch.ones(8, 8, device=f"cuda:{index}").sum().item()
        known = torch.cuda.get_device_properties(index)
        names.append(f"{known.name} ({known.total_memory / 2**30:.0f} GiB)")
    return ", ".join(names)


def check_ray(address: str | None) -> str:
    """Checks that Ray starts, or that the cluster answers, accepts the token and refuses requests without one."""
    found = probe.look(address or LOCAL)
    size = f"machines {found.machines}, CPUs {found.cpus:g}, GPUs {found.gpus:g}"
    return f"starts on this machine: {size}" if address is None else f"{address}: {size}"


def check_storage(places: Places) -> str:
    """Checks that the storage writes, reads and deletes a file."""
    storage, name, data = Storage(places.storage), f"hdvae-doctor-{uuid.uuid4().hex}", os.urandom(4096)
    begun = time.monotonic()
    try:
        storage.write(name, data)
        if storage.read(name) != data:
            raise Unfit(f"storage {places.storage} returns other bytes than were written: use another HDVAE_STORAGE")
        storage.delete_file(name)
    except OSError as fault:
        raise Unfit(f"{fault}; make {places.storage} writable, or set HDVAE_STORAGE") from None
    if storage.exists(name):
        raise Unfit(f"storage {places.storage} does not delete {name}: allow files there to be deleted")
    return f"{places.storage}: wrote, read and deleted a file in {1000 * (time.monotonic() - begun):.0f} ms"


def check_database(places: Places) -> str:
    """Checks that the study database answers and has its tables."""
    studies = len(records.Records(places.database).studies())
    return f"{redacted(places.database)}: {studies} studies"


def check_tracking(places: Places) -> str:
    """Checks that MLflow answers and stores a tag."""
    try:
        Client(places).mark(Tag.DOCTOR)
    except Unreachable as fault:
        raise Unfit(f"{fault}; check MLFLOW_TRACKING_URI, and the user in MLFLOW_TRACKING_USERNAME/_PASSWORD") from None
    found = server(places.tracking)
    return f"{redacted(places.tracking)}: stores records" + (f", MLflow {found.version}" if found else "")


def check_data(places: Places) -> str:
    """Checks that a data set has been fetched, and that none is damaged."""
    states = datasets.state(places.home)
    damaged = [f"{one.name} is {one.state}" for one in states if one.state.startswith("damaged")]
    if damaged:
        raise Unfit(f"{'; '.join(damaged)}; `hdvae data fetch NAME` fetches it again")
    fetched = [one.name for one in states if one.state == "fetched"]
    if not fetched:
        raise Unfit(f"no data set in {places.home}: `hdvae data fetch mnist5k` needs no network")
    return f"{', '.join(fetched)} in {places.home}"


def check_clock(places: Places) -> str:
    """Checks that the clocks of this machine and of the servers agree."""
    engine = database.connect(places.database)
    ask: dict[str, Callable[[], float | None]] = {
        "the database": lambda: database.clock(engine),
        "MLflow": lambda: found.clock if (found := server(places.tracking)) else None,
    }
    differences = {}
    for name, tell in ask.items():
        before = time.time()
        there = tell()
        if there is not None:  # a server may report whole seconds, and the request takes time
            differences[name] = max(before - 1 - there, there - time.time(), 0.0)
    wrong = [f"{name}'s clock differs by {duration(off)}" for name, off in differences.items() if off > SKEW]
    if wrong:
        raise Unfit(f"{'; '.join(wrong)} from this machine's, so recorded times would disagree: run NTP on both")
    return f"agrees with {' and '.join(differences)}" if differences else "every store is on this machine"
