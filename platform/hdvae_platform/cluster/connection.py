"""The Ray that a study runs on: one of its own on this machine, or a cluster that is there and is joined."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import ActorID, PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

import hdvae
from hdvae.errors import InputError
from hdvae_platform.cluster import environment, ray_internals

LOCAL = "local"
AUTO = "auto"
_CONNECTION_WAIT = 5.0
"""Seconds for a cluster's address to accept a connection."""
_TOKEN_WAIT = 30
"""Seconds for a cluster to accept or refuse a token."""
_REFUSED = re.compile("AuthenticationError|RAY_AUTH_TOKEN")
"""Part of Ray's message about a wrong or missing token."""


def check_address(address: str) -> None:
    """See that an address says where a study is to run: `local`, `auto` or `HOST:PORT`.

    Raises:
        InputError: it does not; says what to give instead.
    """
    if address in (LOCAL, AUTO):
        return
    where = f"--address {address}"
    if address.startswith(("ray://", "http://", "https://")):
        host = address.partition("://")[2].partition(":")[0].partition("/")[0]
        raise InputError(
            f"{where}: a study's driver runs on a machine of the cluster; from elsewhere "
            f"`hdvae study submit FILE.yaml --address http://{host}:8265` starts it there"
        )
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"{where}: give local, auto or HOST:PORT, e.g. 10.0.0.1:6379")


@contextmanager
def connected(address: str = LOCAL, *, insecure: bool = False) -> Iterator[None]:
    """Ray for some time; a Ray of the study's own ends with it, a cluster goes on without it.

    What runs on a cluster runs this process's code: both packages are sent along.

    Args:
        address: `local` starts Ray on this machine; `auto` joins the cluster that this machine is part of, `HOST:PORT`
            the one with its head there.
        insecure: whether a Ray that takes commands from whoever reaches it will do.

    Raises:
        InputError: there is no such cluster, it does not take this machine, or it is open to everybody; or this process
            imported Ray too early.
    """
    environment.configure()
    check_address(address)
    if os.environ["RAY_AUTH_MODE"].lower() == "token" and not ray_internals.asks_for_tokens():
        raise InputError(
            "ray was imported before hdvae_platform.cluster.environment.configure() was called, without "
            "RAY_AUTH_MODE=token, which it reads once: call that first, or set RAY_AUTH_MODE=token before Python starts"
        )
    try:
        _start(insecure) if address == LOCAL else _join(address, insecure)
        yield
    finally:
        ray.shutdown()


def packages() -> list[str]:
    """The folders with this project's code, which Ray takes to other machines."""
    return [str(Path(hdvae.__file__).parent), str(Path(__file__).parents[1])]


def machines() -> list[Mapping[str, float]]:
    """What each machine that stays has, in use or not; of a cluster that grows, all it can grow to as one."""
    grown = grows_to() or ray_internals.limits_of_growth()
    return [grown] if grown else [node["Resources"] for node in staying()]


def grows_to() -> dict[str, float]:
    """What an autoscaler may make of the cluster (`HDVAE_GROWS_TO`); Ray's own autoscalers do not tell. Empty if unset.

    Raises:
        InputError: it is not written as it should be.
    """
    text = os.environ.get("HDVAE_GROWS_TO", "")
    found = re.findall(r"(?:^|,)([A-Za-z]+)=(\d+)(?=,|$)", text)
    if len(found) != len(text.split(",") if text else []):
        raise InputError(f"HDVAE_GROWS_TO is {text!r}: give what the cluster may grow to, e.g. CPU=64,GPU=8")
    return {unit: float(amount) for unit, amount in found}


def staying() -> list[dict[str, Any]]:
    """The machines that are not about to be taken away, as Ray describes them."""
    leaving = ray_internals.draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def release() -> None:
    """Give back what the workers of this driver's killed runs had reserved.

    Ray gives back a group of places when the process that reserved it *and* the driver are gone.
    """
    job = ray.get_runtime_context().get_job_id()
    for group in filter(ray_internals.is_orphan, ray_internals.placement_groups()):
        if group.creator_job_id.hex() == job and group.creator_actor_id.hex() != ActorID.nil().hex():
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _start(insecure: bool) -> None:
    """A Ray of this machine, which listens beyond it and so wants a token; Ray makes that and keeps it in ~/.ray."""
    mode = os.environ["RAY_AUTH_MODE"]
    if mode.lower() != "token" and not insecure:
        raise InputError(
            f"RAY_AUTH_MODE is {mode}: whoever reaches this machine could run code on it; unset it, or give --insecure"
        )
    ray.init(address=LOCAL, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)


def _join(address: str, insecure: bool) -> None:
    try:
        head = ray_internals.head_of_this_machine() if address == AUTO else address
    except ConnectionError:
        raise InputError("--address auto: no Ray cluster runs here; `ray start --head` starts one") from None
    _reach(head)
    _check_access(head, insecure)
    # A job has brought the code along, and Ray refuses to be told twice.
    along = {} if ray_internals.JOB_VARIABLE in os.environ else {"py_modules": packages()}
    try:
        ray.init(address=head, log_to_driver=False, logging_level=logging.CRITICAL, runtime_env=along)
    except (ConnectionError, RuntimeError, ValueError) as fault:
        raise InputError(f"--address {head}: {str(fault).strip().splitlines()[0]}") from None


def _check_access(head: str, insecure: bool) -> None:
    """See that a cluster takes this process's token, and nobody without one.

    Raises:
        InputError: it does not; says what to do.
    """
    where = f"--address {head}"
    fault = _asked(head, os.environ["RAY_AUTH_MODE"])
    if fault is not None and _REFUSED.search(fault):
        raise InputError(
            f"{where}: the cluster wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with it "
            "(or RAY_AUTH_MODE=disabled, if it wants none)"
        )
    if fault is not None:
        raise InputError(f"{where}: no Ray head answers there: {fault.splitlines()[-1]}")
    if not (insecure or is_loopback(head)) and not _REFUSED.search(_asked(head, "disabled") or ""):
        raise InputError(
            f"{where}: the cluster takes commands from whoever reaches it: "
            "start it with RAY_AUTH_MODE=token, or give --insecure"
        )


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _CONNECTION_WAIT):
            return
    except OSError as fault:
        raise InputError(f"--address {address}: nothing answers there: {fault.strerror or fault}") from None


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _asked(head: str, mode: str) -> str | None:
    """What is wrong with a question put to a cluster in this mode of authentication; None if it answers.

    In a process of its own, since Ray reads the mode once.
    """
    command = [sys.executable, "-c", ray_internals.HEAD_QUESTION, head]
    environment = {**os.environ, "RAY_AUTH_MODE": mode}
    try:
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TOKEN_WAIT, check=True)
    except subprocess.CalledProcessError as fault:
        return str(fault.stderr).strip()
    except subprocess.TimeoutExpired:
        return f"no answer in {_TOKEN_WAIT} s"
    return None
