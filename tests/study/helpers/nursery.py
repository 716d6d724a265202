"""Where Ray's Python processes come from in tests: forked from one that has imported what they need (`stand_in.py`).

There are two nurseries. One is forked like the commands, and has imported Ray. Ray reads the job that it works for, and
how it is set up, from the environment as it is imported, so this one serves agents, which work for none, and workers
of a cluster's first job. The other has not imported Ray, and serves all workers.
"""

from __future__ import annotations

import atexit
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
from typing import Any

from tests.study.helpers.stand_in import DASHBOARD_AGENT, RAYLET, WITH_RAY, WITHOUT_RAY, is_agent, surroundings

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
"""Of the nursery without Ray."""


@contextmanager
def nurseries() -> Iterator[str]:
    """Both nurseries; their folder."""
    from tests.study.helpers.commands import Forked

    folder = tempfile.mkdtemp(prefix="hdvae-nursery-")  # a socket's path must be short
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # threads that would not be forked
    command = [sys.executable, "-m", __name__, folder]
    served = [subprocess.Popen(command, env=environment, start_new_session=True), Forked(serve, folder, WITH_RAY)]
    try:
        yield folder
    finally:
        for one in served:
            one.kill()
            one.wait()
        shutil.rmtree(folder)


def serve(folder: str, name: str) -> None:
    """Be a nursery."""
    Nursery(folder, name).serve()


class Nursery:
    """Forks processes that are asked for at a socket, and keeps them and those that stand in for them together.

    `FOLDER/PID` holds the id of the process for which the process PID stands in.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._folder = Path(folder)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{folder}/{name}")
        self._listening.listen(64)
        self._workers: dict[int, tuple[socket.socket, Path]] = {}
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

    def serve(self) -> None:
        """Serve until the process is killed, or the one that it was forked for ends."""
        while True:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

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
    serve(sys.argv[1], WITHOUT_RAY)
