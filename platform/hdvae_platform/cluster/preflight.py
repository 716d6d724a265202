"""Checks, before the first run starts on a cluster, that each of its machines can do the work."""

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
from hdvae_platform.cluster.connection import remaining_nodes
from hdvae_platform.store import shared_data
from hdvae_platform.store.layout import preflight_file
from hdvae_platform.store.storage import Storage

ANSWER_WAIT = 120
"""Seconds for all machines to answer; the code is sent to a machine before its first answer."""


@dataclass(frozen=True)
class Requirements:
    """What a machine needs in order to do the work.

    Attributes:
        storage: the root of the storage.
        study: the name of the study.
        checksum: of the study's images, which are on the storage.
        marker: the name of a file that the driver has written there.
        gpus: whether runs use the GPUs of the machine.
        versions: of the driver's software.
    """

    storage: str
    study: str
    checksum: str
    marker: str
    gpus: bool
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """The versions of the software that must be the same everywhere for results to be the same."""
    return {"Python": platform.python_version(), "torch": metadata.version("torch"), "Ray": metadata.version("ray")}


def check(storage: Storage, study: str, checksum: str, stop: threading.Event, *, gpus: bool) -> None:
    """Check every machine of the cluster on which runs may be placed. The check ends early when `stop` is set.

    Args:
        storage: of the study, as the driver sees it.
        study: the name of the study.
        checksum: of its images, which are on the storage.
        stop: set when the study is to stop.
        gpus: whether runs use GPUs.

    Raises:
        InputError: a machine cannot do the work; one line for each such machine says why and what to do.
    """
    marker = preflight_file(study, secrets.token_hex(8))
    storage.write(marker, b"from the driver")
    wanted = Requirements(storage.root, study, checksum, marker, gpus, versions())
    working = [node for node in remaining_nodes() if node["Resources"].get("CPU") or node["Resources"].get("GPU")]
    answers = {_name(node): _ask(node, wanted, index) for index, node in enumerate(working)}
    limit, waiting = time.monotonic() + ANSWER_WAIT, list(answers.values())
    while waiting and time.monotonic() < limit and not stop.is_set():
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1)
    faults = []
    for index, (name, answer) in enumerate(answers.items()):
        fault = _problem(answer)
        faults += [f"machine {name}: {fault}"] if fault else []
        storage.delete_file(f"{marker}-{index}")
    storage.delete_file(marker)
    if faults and not stop.is_set():
        raise InputError("\n".join(faults))


def _ask(node: dict[str, Any], wanted: Requirements, index: int) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_inspect)
    gpus = wanted.gpus and bool(node["Resources"].get("GPU"))  # then no run is placed on a machine without GPUs
    return look.remote({**vars(wanted), "gpus": gpus}, index)


def _problem(answer: Any) -> str | None:
    try:
        fault: str | None = ray.get(answer, timeout=0)
    except GetTimeoutError:
        return f"no answer in {ANSWER_WAIT} s: check that Ray works there"
    except (TaskUnschedulableError, NodeDiedError):
        return None  # the machine is gone, which Ray notices some time later
    except RayError as error:
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    return fault


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def _inspect(plain: dict[str, Any], index: int) -> str | None:
    """The first problem of the machine on which this runs; None if it can do the work."""
    wanted = Requirements(**plain)
    for what, here in versions().items():
        if here != wanted.versions[what]:
            return f"{what} is {here}, the driver's is {wanted.versions[what]}: install the same"
    if wanted.gpus and torch.version.cuda is None and torch.version.hip is None:
        return "torch there is a build without GPU support: install one with it"
    storage = Storage(wanted.storage)
    hint = "set HDVAE_STORAGE to a folder or an s3:// address that every machine reaches"
    try:
        storage.read(wanted.marker)
        storage.write(f"{wanted.marker}-{index}", b"from a machine")
    except FileNotFoundError:
        return f"storage {wanted.storage} is not the same there: {hint}"
    except OSError as fault:
        return f"storage {wanted.storage} cannot be used there: {fault.strerror or fault}; {hint}"
    try:
        shared_data.fetch(storage, wanted.study, wanted.checksum)
    except (InputError, OSError) as fault:
        return f"the images cannot be read there: {fault}"
    return None
