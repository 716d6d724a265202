"""The real commands, each in a process of its own, forked from one that has imported what they need.

Importing torch, Ray, MLflow and matplotlib takes a command several seconds of a core, what it then does often none. The
process that is forked has done nothing but import, so a command finds what it would find in a process made anew; what
depends on the order of imports, or on what Ray reads as it is imported (`RAY_AUTH_MODE`), is tested with `command`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

LIMIT = 240
"""Seconds that a command may take where nothing else is said."""
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([f"{__package__}.preloaded"])


def command(arguments: Sequence[str | Path]) -> list[str]:
    """The command line of `hdvae` in this environment, for a process made anew."""
    return [sys.executable, "-m", "hdvae_platform.cli", *map(str, arguments)]


def made_anew(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command run to its end in a process of its own interpreter, for what an environment changes at its start."""
    whole = {**os.environ, **environment}
    return subprocess.run(command(arguments), env=whole, capture_output=True, text=True, timeout=LIMIT, check=False)


class Forked:
    """Some work in a process of its own, with what `subprocess.Popen` has.

    Args:
        work: what it does; its exit code is what this returns, 0 for None.
        arguments: of the work.
        environment: put over that of this process.
        cwd: the working folder, by default that of this process.

    Attributes:
        pid: the process.
        stdout: what it prints, to be read once.
        stderr: the same of its standard error.
    """

    def __init__(
        self,
        work: Callable[..., object],
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.args = [work.__name__, *map(str, arguments)]
        (out, out_end), (errors, errors_end) = (FORKING.Pipe(duplex=False) for _ in range(2))
        around = ({**os.environ, **(environment or {})}, str(cwd or Path.cwd()), out_end, errors_end)
        self._process = FORKING.Process(target=_do, args=(work, arguments, *around))
        self._process.start()
        self.pid = self._process.pid
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno()), encoding="utf-8") for end in (out, errors))
        for end in (out, out_end, errors, errors_end):
            end.close()

    @property
    def returncode(self) -> int | None:
        """Its exit code, a signal's number below 0; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = LIMIT) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        """What it printed and its standard error, once it has ended; a command out of time is killed.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        with ThreadPoolExecutor(2) as threads:
            read = [threads.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, errors = (one.result() for one in read)
        self.stdout.close()
        self.stderr.close()
        return out, errors

    def completed(self, timeout: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """Its exit code and what it printed, once it has ended."""
        out, errors = self.communicate(timeout)
        return subprocess.CompletedProcess(self.args, self.wait(), out, errors)


class Command(Forked):
    """`hdvae` at work, with these arguments; without `pictures` all that Matplotlib draws are blanks.

    Drawing the figures of a report is what a command that ends a small study computes for longest.
    """

    def __init__(self, *arguments: str | Path, pictures: bool = True, **options: Any) -> None:
        super().__init__(_hdvae if pictures else _without_pictures, *map(str, arguments), **options)


def _do(
    work: Callable[..., object],
    arguments: Sequence[object],
    environment: dict[str, str],
    cwd: str,
    out: Connection,
    errors: Connection,
) -> None:
    from tests.study.helpers.preloaded import SET

    os.environ.clear()
    os.environ.update({**SET, **environment})
    os.chdir(cwd)
    for number, end in ((1, out), (2, errors)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.exit(work(*arguments))


def _hdvae(*arguments: str) -> int:
    from hdvae_platform import cli

    sys.argv = ["hdvae", *arguments]
    return cli.run(arguments)


def _without_pictures(*arguments: str) -> int:
    from matplotlib.figure import Figure

    from tests.study.helpers.preloaded import BLANK

    def save(figure: Figure, to: str | Path | BinaryIO, *, format: str | None = None, **options: object) -> None:  # noqa: A002
        blank = BLANK[format or Path(str(to)).suffix[1:]]
        Path(to).write_bytes(blank) if isinstance(to, str | Path) else to.write(blank)

    Figure.savefig = save
    return _hdvae(*arguments)
