"""Looks at Ray from a process of its own, which Ray may end, or block, when a cluster does not answer as it should.

`python -m hdvae_platform.ray_probe ADDRESS` prints one JSON document: the machines that are alive, their CPUs and GPUs;
or the fault. `local` starts a small Ray of its own.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from hdvae.errors import InputError

LOCAL = "local"
PATIENCE = 60.0
"""Seconds that Ray may take to answer."""
CONNECT = 5.0
"""Seconds that the port of a cluster may take to answer."""


@dataclass(frozen=True)
class Cluster:
    """What a running Ray has: machines, and the sums of their CPUs and GPUs."""

    nodes: int
    cpus: float
    gpus: float


def look(address: str, patience: float = PATIENCE) -> Cluster:
    """What the Ray at an address has.

    Args:
        address: HOST:PORT of a cluster's head, or `local`.
        patience: seconds that it may take to answer.

    Raises:
        InputError: it does not answer; one line why.
    """
    if address != LOCAL:
        _reach(address)
    command = [sys.executable, "-m", "hdvae_platform.ray_probe", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired as late:
        if b"Unauthenticated" in (late.stderr or b""):  # it says so, and tries again and again
            raise InputError(
                f"Ray at {address} refuses the token: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file at "
                "RAY_AUTH_TOKEN_PATH must hold the cluster's"
            ) from None
        raise InputError(f"Ray at {address} does not answer within {patience:.0f} s") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise InputError(f"Ray at {address}: {said[-1] if said else 'ended without a word'}")
    return Cluster(**json.loads(done.stdout))


def _reach(address: str) -> None:
    """See that somebody listens: Ray itself tries for two minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--address {address}: give HOST:PORT, the head and Ray's port (6379 unless it was set)")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, OverflowError) as fault:
        raise InputError(f"Ray at {address}: {fault}; is the head up, and its port open to this machine?") from None


def main(address: str) -> int:
    """Print what the Ray at an address has; 1 if it cannot be asked."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    small: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **small)
    except Exception as fault:  # noqa: BLE001 - Ray raises many kinds; each is one line for the one who asks
        sys.stdout.write(" ".join(str(fault).split()) + "\n")
        return 1
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    totals = {unit: sum(node.get(unit, 0.0) for node in alive) for unit in ("CPU", "GPU")}
    sys.stdout.write(json.dumps({"nodes": len(alive), "cpus": totals["CPU"], "gpus": totals["GPU"]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
