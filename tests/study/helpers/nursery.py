"""Where Ray's Python processes come from in tests: forked from one that has imported what they need (`stand_in.py`).

Agents are forked from a process that is forked like the commands. Workers are not: as it is imported, Ray reads the job
that a worker is for from the environment. So there is a process that has imported all but Ray, from which one is forked
for each job that imports Ray, from which its workers are forked.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.study.helpers.stand_in import AGENTS, DASHBOARD_AGENT, JOB, JOBS, RAYLET, is_agent, socket_of, surroundings

_MODULES = (
    "hdvae_platform.training.run",
    "hdvae_platform.training.slots_figure",
    "torch.distributed",
    "pandas",
    "pyarrow.fs",
    "pyarrow.json",
    "pyarrow.parquet",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    # What Ray imports.
    "click",
    "fsspec",
    "google.protobuf.json_format",
    "jsonschema",
    "psutil",
    "pydantic.v1",
    "requests",
    "rich.live",
    "starlette.requests",
    "tqdm.auto",
)
"""Of what workers import, and Ray, all but Ray."""
_WITH_RAY = (
    "hdvae_platform.cluster.preflight",
    "hdvae_platform.training.tune_trainable",
    "ray._private.runtime_env.context",
    "ray._private.workers.default_worker",
    "ray._private.workers.setup_worker",
)
_IDLE = 60
"""Seconds after which the nursery of a job ends that has no workers."""
_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


@contextmanager
def nurseries() -> Iterator[str]:
    """All nurseries; the folder of their sockets."""
    from tests.study.helpers.commands import Forked

    folder = tempfile.mkdtemp(prefix="hdvae-nursery-")  # a socket's path must be short
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # threads that would not be forked
    command = [sys.executable, "-m", __name__, folder]
    served = [subprocess.Popen(command, env=environment, start_new_session=True), Forked(serve_agents, folder)]
    try:
        yield folder
    finally:
        for one in served:
            one.kill()
            one.wait()
        shutil.rmtree(folder)


def serve_agents(folder: str) -> None:
    """Be the nursery of agents."""
    Nursery(Path(folder), AGENTS).serve()


def serve_jobs(folder: str) -> None:
    """Fork a nursery for each job that is asked for, and answer once it can be reached."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = _listening(Path(folder) / JOBS)
    while True:
        asking, _ = listening.accept()
        job = asking.recv(64).decode()
        if not (Path(folder) / socket_of(job)).exists():
            nursery = Nursery(Path(folder), socket_of(job), _IDLE)
            if not os.fork():
                asking.close()
                listening.close()
                _serve_job(nursery, job)
            nursery.close()
        asking.sendall(b".")
        asking.close()


def _serve_job(nursery: Nursery, job: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.environ |= {JOB: job, RAYLET: str(os.getpid())}  # its workers end with their stand-ins, not with raylets
    with unused_generator():
        for name in _WITH_RAY:
            importlib.import_module(name)
    gc.freeze()
    nursery.serve()
    os._exit(0)


@contextmanager
def unused_generator() -> Iterator[None]:
    """Keep Ray's generator of ids from starting as modules are imported: all that is forked would have the same ids."""
    import ray.actor

    own = ray.actor.ActorClassID
    ray.actor.ActorClassID = SimpleNamespace(from_random=lambda: own(os.urandom(own.nil().size())))
    try:
        yield
    finally:
        ray.actor.ActorClassID = own


def _listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(64)
    return made


class Nursery:
    """Forks processes that are asked for at a socket, and keeps them and those that stand in for them together.

    `FOLDER/PID` holds the id of the process for which the process PID stands in.
    """

    def __init__(self, folder: Path, name: str, idle: float | None = None) -> None:
        self._folder, self._path, self._idle = folder, folder / name, idle
        self._listening = _listening(self._path)
        self._workers: dict[int, tuple[socket.socket, Path]] = {}

    def close(self) -> None:
        """Leave the socket to the process that serves at it."""
        self._listening.close()

    def serve(self) -> None:
        """Serve until the process is killed, the one that it was forked for ends, or nothing is to be done for long."""
        self._ended, self._wakeup = socket.socketpair()
        for end in (self._ended, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._fork)
        self._selector.register(self._ended, selectors.EVENT_READ, self._reap)
        if tests := parent_process():
            self._selector.register(tests.sentinel, selectors.EVENT_READ, lambda _: os._exit(1))
        serving = True
        while serving or self._workers:
            events = self._selector.select(None if self._workers else self._idle)
            for key, _ in events:
                key.data(key.fileobj)
            if serving and not events:
                serving = False
                self._path.unlink()
                self._listening.setblocking(False)
                with suppress(BlockingIOError):  # whoever came meanwhile is served
                    self._fork(None)

    def _fork(self, _: Any) -> None:
        asking, _ = self._listening.accept()
        _, fds, _, _ = socket.recv_fds(asking, 1, 2)
        with asking.makefile("rb") as words:
            asked = json.loads(words.readline())
        if asked["surroundings"] != surroundings():
            asking.sendall(b"null\n")
            asking.close()
        elif pid := os.fork():
            file = self._folder / str(asked["stands_in"])
            self._workers[pid] = asking, file
            self._selector.register(asking, selectors.EVENT_READ, lambda _: self._lost(pid))
            file.write_text(str(pid))
        else:
            self._leave()
            asking.close()
            _become(asked, fds)
        for fd in fds:
            os.close(fd)

    def _lost(self, pid: int) -> None:
        """What stood in for a worker was killed: so is the worker."""
        self._selector.unregister(self._workers[pid][0])
        os.kill(pid, signal.SIGKILL)

    def _reap(self, _: Any) -> None:
        self._ended.recv(4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            asking, file = self._workers.pop(pid)
            file.unlink()
            if asking in {key.fileobj for key in self._selector.get_map().values()}:
                self._selector.unregister(asking)
                with suppress(BrokenPipeError):
                    asking.sendall(json.dumps(code if code >= 0 else 128 - code).encode() + b"\n")
            asking.close()

    def _leave(self) -> None:
        """Be a process that knows nothing of the nursery."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for one in (self._listening, self._ended, self._wakeup, *(asking for asking, _ in self._workers.values())):
            one.close()


def _become(asked: dict[str, Any], fds: list[int]) -> None:
    """Be the process that Ray would have started, as the interpreter and `setup_worker.py` do it."""
    code: Any = 1
    try:
        os.setsid()  # as Ray does: it ends the group of a worker with it
        for number, fd in enumerate(fds, 1):
            os.dup2(fd, number)
            os.close(fd)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["cwd"])
        sys.argv = _agent(asked["arguments"]) if is_agent(asked["arguments"]) else _worker(asked["arguments"])
        sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _worker(arguments: list[str]) -> list[str]:
    """The command line of a worker, whose environment is made ready."""
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers import setup_worker

    options, words = setup_worker.parser.parse_known_args(arguments)
    update_envs(RuntimeEnvContext.deserialize(options.serialized_runtime_env_context or "{}").env_vars)
    return words


def _agent(arguments: list[str]) -> list[str]:
    """The command line of an agent, which has nothing to serve: nobody looks at a dashboard.

    An agent ends when it is not a child of its raylet any more. This one is none, and ends with its stand-in.
    """
    from ray.dashboard import utils

    os.environ[RAYLET] = str(os.getppid())
    utils.get_all_modules = lambda kind: []
    return [*arguments, "--minimal"] if arguments[0].endswith(DASHBOARD_AGENT) else arguments


if __name__ == "__main__":
    for _name in _MODULES:
        importlib.import_module(_name)
    assert "ray" not in sys.modules
    gc.freeze()
    serve_jobs(sys.argv[1])
