"""A real Ray cluster of several nodes on this machine: each is its own processes, and can be killed by itself."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.postgres import free_port

START = 60
"""Seconds that a node may take to be there."""
Node = subprocess.Popen[bytes]
_TIED = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
"""Ends a node with the process that started it, also where that is killed; Linux has it."""


class Nodes:
    """A head that takes no work, and nodes that do; the cluster wants a token, which `environment` holds.

    Args:
        cpus: that each node offers, one number for each.
        jobs: whether the head takes jobs.
        home: `HDVAE_HOME` of what runs there.

    Attributes:
        address: of the head.
        jobs: address of its job server, if there is one.
        token: the token.
        nodes: the nodes that do the work.
    """

    def __init__(self, cpus: tuple[int, ...] = (2, 2), *, jobs: bool = False, home: Path | None = None) -> None:
        self._dashboard = free_port() if jobs else None
        self.jobs = f"http://127.0.0.1:{self._dashboard}" if jobs else None
        self.token = secrets.token_hex(16)
        self._cpus, self._home = cpus, home
        self._logs = Path(tempfile.mkdtemp(prefix="hdvae-nodes-"))
        self._start()

    @property
    def environment(self) -> dict[str, str]:
        """Lets a process in."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # jobs start `python`
        return {
            "PATH": path,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def _start(self) -> None:
        self._logs.mkdir(exist_ok=True)
        port = free_port()
        self.address = f"{self._host(0)}:{port}"
        dashboard = [f"--dashboard-port={self._dashboard}"] if self._dashboard else ["--include-dashboard=false"]
        self._head = self._node(0, "--head", f"--port={port}", "--num-cpus=0", *dashboard, *self._own_folder())
        self.nodes = []
        try:
            for index in range(len(self._cpus)):
                self.nodes.append(self._joining(index))
        except TimeoutError:  # whoever wanted the cluster has nothing yet that could be ended
            self.end()
            raise

    def _own_folder(self) -> list[str]:
        """Options for a folder of its own: in a shared one, jobs would join the latest cluster of the machine."""
        return [f"--temp-dir={self._logs}/ray"]

    def _host(self, number: int) -> str:
        """Address of the head (0) or of a node (1, 2, …)."""
        return _own_address()

    def command(self, number: int, words: Sequence[str]) -> list[str]:
        """What runs a command on the head's machine (0) or a node's."""
        return list(words)

    def started(
        self, number: int, words: Sequence[str], before: Sequence[str], environment: dict[str, str], log: Path
    ) -> Node:
        """The process of a node, which leads a process group of its own and ends with this process."""
        with log.open("wb") as out:
            return subprocess.Popen(
                [*_TIED, *before, *self.command(number, words)],
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _joining(self, index: int) -> Node:
        return self._node(index + 1, f"--address={self.address}", f"--num-cpus={self._cpus[index]}")

    def _node(self, number: int, *arguments: str, before: Sequence[str] = ()) -> Node:
        """Start a node in a process group of its own, and wait until it says that it is there."""
        log = self._logs / f"{secrets.token_hex(4)}.log"
        agent = f"--dashboard-agent-listen-port={free_port()}"  # its usual one is taken where there are two nodes
        where = [f"--node-ip-address={self._host(number)}", agent]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *where, *arguments]
        home = {"HDVAE_HOME": str(self._home)} if self._home else {}
        log.touch()
        node = self.started(number, words, before, {**os.environ, **self.environment, **home}, log)
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

    @contextmanager
    def further(self, before: Sequence[str] = ()) -> Iterator[Node]:
        """One more node for some time, with a CPU, started by a command that is put before its own."""
        node = self._node(0, f"--address={self.address}", "--num-cpus=1", before=before)
        try:
            yield node
        finally:
            os.killpg(node.pid, signal.SIGTERM)  # so that the cluster hears of it at once
            with suppress(subprocess.TimeoutExpired):
                node.wait(START)
            _kill(node)

    def kill(self, index: int) -> None:
        """SIGKILL to all processes of a node, as if its machine went down."""
        _kill(self.nodes[index])

    def replace(self, index: int) -> None:
        """A new node in the place of one that was killed."""
        self.nodes[index] = self._joining(index)

    def restart(self) -> None:
        """SIGKILL to the whole cluster, the head first; another is started, at another address."""
        self.end()
        self._start()

    def end(self) -> None:
        """SIGKILL to everything; what it left in its folder goes too."""
        for node in [self._head, *self.nodes]:
            _kill(node)
        shutil.rmtree(self._logs, ignore_errors=True)


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


class Hosts(Nodes):
    """The same with a machine for each node, as far as one can tell from within.

    Each has a network namespace with an address, and a `/tmp/ray`, of its own. Needs root, and `ip`.
    """

    def __init__(self, cpus: tuple[int, ...] = (1, 1)) -> None:
        self._name = f"hdvae{secrets.token_hex(2)}"
        self._net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self._net}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for number in range(len(cpus) + 1):
            self._plug_in(number)
        super().__init__(cpus)

    def _plug_in(self, number: int) -> None:
        space, inside, outside = f"{self._name}-{number}", "eth0", f"{self._name}-{number}"
        _ip("netns", "add", space)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", space)
        _ip("link", "set", outside, "master", self._name, "up")
        _ip("-n", space, "addr", "add", f"{self._host(number)}/24", "dev", inside)
        for device in ("lo", inside):
            _ip("-n", space, "link", "set", device, "up")

    def _host(self, number: int) -> str:
        return f"{self._net}.{number + 1}"

    def _own_folder(self) -> list[str]:
        return []  # each host has its own

    def command(self, number: int, words: Sequence[str]) -> list[str]:
        """What runs a command on the head's machine (0) or a node's; all commands of one see the same `/tmp/ray`."""
        own = self._logs / f"ray-{number}"
        own.mkdir(parents=True, exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        mounted = f'mount --bind {own} /tmp/ray && exec "$@"'
        return ["ip", "netns", "exec", f"{self._name}-{number}", "unshare", "-m", "sh", "-c", mounted, "sh", *words]

    def end(self) -> None:
        """SIGKILL to everything, and the network is taken down."""
        super().end()
        for number in range(len(self._cpus) + 1):
            _ip("link", "delete", f"{self._name}-{number}")
            _ip("netns", "delete", f"{self._name}-{number}")
        _ip("link", "delete", self._name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def can_have_hosts() -> bool:
    """Whether this process may make network namespaces here."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-nm", "true"], check=False, capture_output=True).returncode == 0


@contextmanager
def cluster(cpus: tuple[int, ...] = (2, 2), *, jobs: bool = False, home: Path | None = None) -> Iterator[Nodes]:
    """A cluster of nodes for some time."""
    nodes = Nodes(cpus, jobs=jobs, home=home)
    try:
        yield nodes
    finally:
        nodes.end()
