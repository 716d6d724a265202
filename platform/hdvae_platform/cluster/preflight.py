"""Before any run starts on a cluster: can each of its machines do the work?"""

from __future__ import annotations

import platform
import secrets
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hdvae.errors import InputError
from hdvae_platform.cluster.connection import staying
from hdvae_platform.store import shared_data
from hdvae_platform.store.layout import preflight_file
from hdvae_platform.store.storage import Storage

PATIENCE = 120
"""Seconds for all machines to answer: the first look on a machine sends the code there."""


@dataclass(frozen=True)
class Wanted:
    """What a machine needs to have.

    Attributes:
        storage: root of the storage.
        study: name of the study.
        checksum: of its images, which are on the storage.
        marker: name of a file that the driver wrote there.
        gpus: whether runs use those of the machine.
        versions: of the driver's software.
    """

    storage: str
    study: str
    checksum: str
    marker: str
    gpus: bool
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Of what has to be the same everywhere for results to be the same."""
    return {"Python": platform.python_version(), "torch": metadata.version("torch"), "Ray": metadata.version("ray")}


def check(storage: Storage, study: str, checksum: str, stop: threading.Event, *, gpus: bool) -> None:
    """Look at every machine of the cluster that runs may be placed on; until `stop` is set, and nobody wants to know.

    Args:
        storage: of the study, as the driver sees it.
        study: its name.
        checksum: of its images, which are published.
        stop: set when the study is to stop.
        gpus: whether runs use GPUs.

    Raises:
        InputError: a machine cannot do the work; a line for each says what is wrong and what to do.
    """
    marker = preflight_file(study, secrets.token_hex(8))
    storage.write(marker, b"from the driver")
    wanted = Wanted(storage.root, study, checksum, marker, gpus, versions())
    working = [node for node in staying() if node["Resources"].get("CPU") or node["Resources"].get("GPU")]
    answers = {_name(node): _ask(node, wanted, index) for index, node in enumerate(working)}
    limit, waiting = time.monotonic() + PATIENCE, list(answers.values())
    while waiting and time.monotonic() < limit and not stop.is_set():
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1)
    faults = []
    for index, (name, answer) in enumerate(answers.items()):
        fault = _told(answer)
        faults += [f"machine {name}: {fault}"] if fault else []
        storage.delete_file(f"{marker}-{index}")
    storage.delete_file(marker)
    if faults and not stop.is_set():
        raise InputError("\n".join(faults))


def _ask(node: dict[str, Any], wanted: Wanted, index: int) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_look)
    gpus = wanted.gpus and bool(node["Resources"].get("GPU"))  # a machine without trains nothing then
    return look.remote({**vars(wanted), "gpus": gpus}, index)


def _told(answer: Any) -> str | None:
    try:
        fault: str | None = ray.get(answer, timeout=0)
    except GetTimeoutError:
        return f"no answer in {PATIENCE} s: see whether Ray is well there"
    except (TaskUnschedulableError, NodeDiedError):
        return None  # it has gone; Ray finds that out some time later
    except RayError as error:
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    return fault


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def _look(plain: dict[str, Any], index: int) -> str | None:
    """What is wrong with the machine that this runs on, first of all; None if it can do the work."""
    wanted = Wanted(**plain)
    for what, here in versions().items():
        if here != wanted.versions[what]:
            return f"{what} is {here}, the driver's is {wanted.versions[what]}: install the same"
    if wanted.gpus and torch.version.cuda is None and torch.version.hip is None:
        return "torch there is a build without GPUs: install one with them"
    storage = Storage(wanted.storage)
    hint = "set HDVAE_STORAGE to a folder or an s3:// address that every machine reaches"
    try:
        storage.read(wanted.marker)
        storage.write(f"{wanted.marker}-{index}", b"from a machine")
    except FileNotFoundError:
        return f"storage {wanted.storage} is another one there: {hint}"
    except OSError as fault:
        return f"storage {wanted.storage} cannot be used there: {fault.strerror or fault}; {hint}"
    try:
        shared_data.fetch(storage, wanted.study, wanted.checksum)
    except (InputError, OSError) as fault:
        return f"the images cannot be read there: {fault}"
    return None
