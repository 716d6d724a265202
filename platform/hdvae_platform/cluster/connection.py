"""The Ray that a study runs on: its own, started on this machine, or an existing cluster that it joins."""

from __future__ import annotations

import logging
import os
import re
import socket
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
from hdvae_platform.cluster.access_token import ensure_token
from hdvae_platform.cluster.address import AUTO, LOCAL, check_address, is_loopback
from hdvae_platform.store.private_folder import private_folder

_SOCKETS = Path("/tmp") if Path("/tmp").is_dir() else None  # noqa: S108 - a folder of our own in it
"""Where Ray's sockets are: the path of one has at most 107 bytes, which that of TMPDIR may leave no room for."""
_CONNECTION_WAIT = 5.0
"""Seconds for a cluster's address to accept a connection."""


@contextmanager
def connected(address: str = LOCAL, *, insecure: bool = False) -> Iterator[None]:
    """Connects to Ray inside. Afterwards a Ray that was started here ends; a cluster that was joined goes on.

    Processes on a cluster run the code of this process: both packages are sent there.

    Args:
        address: `local` starts Ray on this machine; `auto` joins the cluster that this machine is part of, `HOST:PORT`
            the cluster whose head has that address.
        insecure: allow a Ray that accepts commands from anybody who can reach it.

    Raises:
        InputError: there is no such cluster, it refuses this machine, or it works without a token; or this process
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
    """The folders with this project's code, which Ray copies to other machines."""
    return [str(Path(hdvae.__file__).parent), str(Path(__file__).parents[1])]


def machines() -> list[Mapping[str, float]]:
    """The resources of each remaining machine, used or free; the limits of a cluster that grows, as one machine."""
    grown = grows_to() or ray_internals.limits_of_growth()
    return [grown] if grown else [node["Resources"] for node in remaining_nodes()]


def grows_to() -> dict[str, float]:
    """The resources to which an autoscaler may grow the cluster, from `HDVAE_GROWS_TO`; empty if it is not set.

    Ray's own autoscalers do not report their limits.

    Raises:
        InputError: the variable is malformed.
    """
    text = os.environ.get("HDVAE_GROWS_TO", "")
    found = re.findall(r"(?:^|,)([A-Za-z]+)=(\d+)(?=,|$)", text)
    if len(found) != len(text.split(",") if text else []):
        raise InputError(
            f"HDVAE_GROWS_TO is {text!r}: give the resources that the cluster may grow to, e.g. CPU=64,GPU=8"
        )
    return {unit: float(amount) for unit, amount in found}


def remaining_nodes() -> list[dict[str, Any]]:
    """The nodes that are not about to be taken away, as Ray describes them."""
    leaving = ray_internals.draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def release() -> None:
    """Release the resources that the workers of this driver's killed runs had reserved.

    Ray itself releases a placement group only when the process that reserved it *and* the driver have ended.
    """
    job = ray.get_runtime_context().get_job_id()
    for group in filter(ray_internals.is_orphan, ray_internals.placement_groups()):
        if group.creator_job_id.hex() == job and group.creator_actor_id.hex() != ActorID.nil().hex():
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _start(insecure: bool) -> None:
    """Start Ray on this machine, where other users cannot see its files; to reach it, one needs its token."""
    mode = os.environ["RAY_AUTH_MODE"]
    if mode.lower() != "token" and not insecure:
        raise InputError(
            f"RAY_AUTH_MODE is {mode}: anybody who can reach this machine could run code on it; "
            "unset it, or give --insecure"
        )
    if mode.lower() == "token":
        ensure_token()
    with ray_internals.on_the_loopback():
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=str(private_folder("hdvae-ray", _SOCKETS) / "ray"),  # Ray opens the folder itself to all
        )


def _join(address: str, insecure: bool) -> None:
    try:
        head = ray_internals.head_of_this_machine() if address == AUTO else address
    except ConnectionError:
        raise InputError("--address auto: no Ray cluster runs here; `ray start --head` starts one") from None
    _reach(head)
    _check_access(head, insecure)
    # A Ray job has sent the code already, and Ray refuses to send it twice.
    given = {"py_modules": packages(), "env_vars": environment.of_workers()}
    sent = {} if ray_internals.JOB_VARIABLE in os.environ else given
    try:
        ray.init(address=head, log_to_driver=False, logging_level=logging.CRITICAL, runtime_env=sent)
    except (ConnectionError, RuntimeError, ValueError) as fault:
        raise InputError(f"--address {head}: {str(fault).strip().splitlines()[0]}") from None


def _check_access(head: str, insecure: bool) -> None:
    """Check that a cluster accepts this process's token, and refuses requests without one.

    Raises:
        InputError: it does not; the message says what to do.
    """
    where = f"--address {head}"
    try:
        ray_internals.ask_head(head, token=os.environ["RAY_AUTH_MODE"].lower() == "token")
        is_open = not (insecure or is_loopback(head)) and _is_open(head)
    except PermissionError:
        raise InputError(
            f"{where}: the cluster requires its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with "
            "it (or RAY_AUTH_MODE=disabled, if it requires none)"
        ) from None
    except ConnectionError as fault:
        raise InputError(f"{where}: no Ray head answers there: {str(fault).splitlines()[-1]}") from None
    if is_open:
        raise InputError(
            f"{where}: the cluster accepts commands from anybody who can reach it: "
            "start it with RAY_AUTH_MODE=token, or give --insecure"
        )


def _is_open(head: str) -> bool:
    """Whether a head answers without a token. Raises `ConnectionError` if it does not answer at all."""
    try:
        ray_internals.ask_head(head, token=False)
    except PermissionError:
        return False
    return True


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _CONNECTION_WAIT):
            return
    except OSError as fault:
        raise InputError(f"--address {address}: nothing answers there: {fault.strerror or fault}") from None
