"""A real Ray cluster of several nodes on this machine: each is its own processes, and can be killed by itself."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.postgres import free_port

START = 60
"""Seconds that a node may take to be there."""
Node = subprocess.Popen[bytes]


class Nodes:
    """A head that takes no work, and nodes that do; the cluster wants a token, which `environment` holds.

    Args:
        cpus: that each node offers, one number for each.
        jobs: whether the head takes jobs.

    Attributes:
        address: of the head.
        jobs: address of its job server, if there is one.
        token: the token.
        nodes: the nodes that do the work.
    """

    def __init__(self, cpus: tuple[int, ...] = (2, 2), *, jobs: bool = False) -> None:
        self._dashboard = free_port() if jobs else None
        self.jobs = f"http://127.0.0.1:{self._dashboard}" if jobs else None
        self.token = secrets.token_hex(16)
        self._cpus = cpus
        self._log = Path(tempfile.mkdtemp(prefix="hdvae-nodes-")) / "log"
        self._start()

    @property
    def environment(self) -> dict[str, str]:
        """Lets a process in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}

    def _start(self) -> None:
        port = free_port()
        self.address = f"{_own_address()}:{port}"
        dashboard = [f"--dashboard-port={self._dashboard}"] if self._dashboard else ["--include-dashboard=false"]
        self._head = self._node("--head", f"--port={port}", "--num-cpus=0", *dashboard)
        self.nodes = [self._joining(cpus) for cpus in self._cpus]

    def _joining(self, cpus: int) -> Node:
        return self._node(f"--address={self.address}", f"--num-cpus={cpus}")

    def _node(self, *arguments: str) -> Node:
        """Start a node in a process group of its own, and wait until it says that it is there."""
        log = self._log.with_name(f"{secrets.token_hex(4)}.log")
        agent = f"--dashboard-agent-listen-port={free_port()}"  # its usual one is taken where there are two nodes
        with log.open("wb") as out:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", agent, *arguments],
                env={**os.environ, **self.environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        limit = time.monotonic() + START
        while time.monotonic() < limit and node.poll() is None:
            if b"Ray runtime started" in log.read_bytes():
                return node
            time.sleep(0.1)
        _kill(node)
        raise TimeoutError(f"a Ray node did not start: {log.read_text()[-2000:]}")

    def processes(self, kind: str) -> list[int]:
        """Process ids of the cluster's Ray processes whose title starts with `kind`, `ray::RayTrainWorker` say."""
        lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in lines.splitlines()[1:]]
        below = {node.pid for node in [self._head, *self.nodes]}
        for _ in range(3):  # a node's raylet, and the workers below it
            below |= {int(pid) for pid, parent, *_ in rows if int(parent) in below}
        return [int(row[0]) for row in rows if int(row[0]) in below and row[-1].startswith(kind)]

    def kill(self, index: int) -> None:
        """SIGKILL to all processes of a node, as if its machine went down."""
        _kill(self.nodes[index])

    def replace(self, index: int) -> None:
        """A new node in the place of one that was killed."""
        self.nodes[index] = self._joining(self._cpus[index])

    def restart(self) -> None:
        """SIGKILL to the whole cluster, the head first; another is started, at another address."""
        self.end()
        self._start()

    def end(self) -> None:
        """SIGKILL to everything."""
        for node in [self._head, *self.nodes]:
            _kill(node)


def _kill(node: Node) -> None:
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def _own_address() -> str:
    """The address by which this machine reaches others, as Ray finds it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 53))  # sends nothing; an address for documentation
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@contextmanager
def cluster(cpus: tuple[int, ...] = (2, 2), *, jobs: bool = False) -> Iterator[Nodes]:
    """A cluster for some time."""
    nodes = Nodes(cpus, jobs=jobs)
    try:
        yield nodes
    finally:
        nodes.end()
