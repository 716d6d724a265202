"""Looks at Ray from a process of its own, which Ray may end, or block, when a cluster does not answer as it should.

`python -m hdvae_platform.cluster.probe ADDRESS` prints one JSON document: the machines, their CPUs and GPUs; or the
fault.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from hdvae.errors import InputError
from hdvae_platform.cluster.connection import connected, machines

PATIENCE = 120.0
"""Seconds that Ray may take to start here, or to answer."""


@dataclass(frozen=True)
class Cluster:
    """What a Ray has, or can grow to: machines, and the sums of their CPUs and GPUs."""

    machines: int
    cpus: float
    gpus: float


def look(address: str) -> Cluster:
    """What the Ray at an address has.

    Args:
        address: HOST:PORT of a cluster's head, or `auto`; `local` starts one here for a moment.

    Raises:
        InputError: it does not answer, refuses the token or asks for none; one line.
    """
    command = [sys.executable, "-m", "hdvae_platform.cluster.probe", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"--address {address}: Ray does not answer within {PATIENCE:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise InputError(said[-1] if said else f"--address {address}: Ray ended without a word")
    return Cluster(**json.loads(done.stdout.splitlines()[-1]))


def main(address: str) -> int:
    """Print what the Ray at an address has; 1 if it cannot be asked."""
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
