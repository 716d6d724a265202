"""The size of a cluster, asked for by another process: Ray may end or block the process that asks.

`python -m hdvae_platform.cluster.probe ADDRESS` prints one JSON document with the number of machines, CPUs and GPUs, or
the error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from hdvae.errors import InputError
from hdvae_platform.cluster.connection import connected, machines

PROBE_WAIT = 120.0
"""Seconds for Ray to start on this machine, or to answer."""


@dataclass(frozen=True)
class Cluster:
    """The size of a cluster, or the size to which it can grow: machines, and the sums of their CPUs and GPUs."""

    machines: int
    cpus: float
    gpus: float


def look(address: str) -> Cluster:
    """The size of the cluster at an address.

    Args:
        address: HOST:PORT of a cluster's head, or `auto`; `local` starts Ray on this machine for a moment.

    Raises:
        InputError: it does not answer, refuses the token or requires none; one line.
    """
    command = [sys.executable, "-m", "hdvae_platform.cluster.probe", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_WAIT, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"--address {address}: Ray does not answer within {PROBE_WAIT:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise InputError(said[-1] if said else f"--address {address}: Ray ended without a message")
    return Cluster(**json.loads(done.stdout.splitlines()[-1]))


def main(address: str) -> int:
    """Print the size of the cluster at an address; returns 1 if it does not answer."""
    try:
        with connected(address):
            sizes = machines()
    except InputError as fault:
        sys.stdout.write(f"{fault}\n")
        return 1
    totals = [sum(size.get(unit, 0.0) for size in sizes) for unit in ("CPU", "GPU")]
    sys.stdout.write(json.dumps(asdict(Cluster(len(sizes), *totals))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
