"""Running commands of `hdvae` on a Ray cluster from a machine outside it, through the cluster's job server."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from hdvae.data.loading import is_there
from hdvae.data.parquet import parquet_path
from hdvae.errors import InputError
from hdvae_platform.cluster.address import is_loopback
from hdvae_platform.cluster.connection import packages
from hdvae_platform.cluster.environment import of_workers
from hdvae_platform.cluster.ray_internals import CHATTY_LOGGERS, NO_AGENT
from hdvae_platform.store.layout import DATA, SUBMITTED
from hdvae_platform.store.places import redacted
from hdvae_platform.study.study import Study

Write = Callable[[str], None]
HOME = '"${HDVAE_HOME:-$HOME/hdvae-runs}"'
"""The home folder of a job, in the syntax of the shell on the cluster's head."""
_FOLDER = f"{HOME}/{SUBMITTED}/NAME"
_SETTLE = f"mkdir -p {HOME}/{DATA} {_FOLDER} && cp -r . {_FOLDER}/ && cd {_FOLDER} && "
"""Copies the files that were sent to a folder that stays: Ray removes the one in which a job starts."""
_DATA = f"mv -f {DATA}/*.parquet ../../{DATA}/ && "
"""Moves data sets in one step, so that no other study reads half a file; `cp -n` fails on newer systems if the file
exists."""
_FOREWORD = re.compile(r"(\S+ \S+\s+INFO job_manager\.py\S* -- .*|Running entrypoint for job .*)\n")
"""What Ray prints before the output of a job."""
_START_WAIT = 60
"""Seconds for a cluster that has just started to be ready for jobs."""
_ACCESS_WAIT = 10
"""Seconds for a job server to say whether it needs a token."""


class Jobs:
    """The job server of a cluster.

    Args:
        address: `http://HEAD:8265`, or https.
        insecure: allow a cluster that accepts commands from anybody who can reach it.

    Raises:
        InputError: no job server answers, it refuses this process's token, or it works without a token.
    """

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        self._where = f"--address {redacted(address)}"
        if urlsplit(address).scheme not in ("http", "https"):
            raise InputError(f"{self._where}: give the address of the cluster's job server, e.g. http://HEAD:8265")
        if not (insecure or is_loopback(urlsplit(address).netloc)) and self._is_open(address):
            raise InputError(
                f"{self._where}: the cluster accepts commands from anybody who can reach it: "
                "start it with RAY_AUTH_MODE=token, or give --insecure"
            )
        for name in CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client would prefer another address from the environment
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError:
            raise InputError(
                f"{self._where}: the cluster requires its token: "
                "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with it"
            ) from None
        except (OSError, RuntimeError) as fault:
            raise InputError(f"{self._where}: {_line(fault)}") from None
        self._said: dict[str, int] = {}

    def _is_open(self, address: str) -> bool:
        try:
            url = f"{address.rstrip('/')}/api/jobs/"
            with urllib.request.urlopen(url, timeout=_ACCESS_WAIT) as answer:  # noqa: S310 - http or https, see above
                return bool(answer.status == 200)
        except urllib.error.HTTPError as answer:
            if answer.code in (401, 403):
                return False
            raise InputError(f"{self._where}: no job server of Ray answers there, but {answer}") from None
        except (OSError, HTTPException) as fault:
            raise InputError(f"{self._where}: nothing answers there: {getattr(fault, 'reason', fault)}") from None

    def submit(self, study: Study, home: Path, options: Sequence[str]) -> str:
        """Start `hdvae study run` for a study on the cluster; the job's id is the study's name.

        Args:
            study: a checked study; its images are sent too, if they are on this machine.
            home: the local folder with the data sets.
            options: further arguments of the command.

        Returns:
            The id of the job.

        Raises:
            InputError: the study already runs there as a job.
        """
        known = {job.submission_id: job for job in self._client.list_jobs()}
        if study.name in known:
            if not JobStatus(known[study.name].status).is_terminal():
                raise InputError(
                    f"study {study.name} already runs there: `hdvae study status {study.name} {self._where}` follows it"
                )
            self._said[study.name] = len(self._client.get_job_logs(study.name))  # Ray appends to the same file
            self._client.delete_job(study.name)
        with tempfile.TemporaryDirectory(prefix="hdvae-job-") as folder:
            _pack(study, home, Path(folder))
            before = _SETTLE.replace("NAME", study.name) + (_DATA if (Path(folder) / DATA).exists() else "")
            words = ["study", "run", "study.yaml", "--address", "auto", *options]
            return self._start(words, study.name, {"working_dir": folder}, before)

    def run(self, arguments: Sequence[str]) -> str:
        """Start a short command on the cluster; returns the job's id."""
        return self._start(arguments, f"hdvae-{arguments[1]}-{secrets.token_hex(4)}", {})

    def _start(self, arguments: Sequence[str], name: str, environment: dict[str, Any], before: str = "") -> str:
        try:
            return str(
                self._submit(
                    entrypoint=f"{before}python -m hdvae_platform.cli {shlex.join(arguments)} --home {HOME}",
                    submission_id=name,
                    runtime_env={**environment, "py_modules": packages(), "env_vars": of_workers()},
                )
            )
        except RuntimeError as fault:
            raise InputError(f"{self._where}: {_line(fault)}") from None

    @retry(
        retry=retry_if_exception(lambda fault: NO_AGENT in str(fault)),
        wait=wait_fixed(1),
        stop=stop_after_delay(_START_WAIT),
        reraise=True,
    )
    def _submit(self, **job: Any) -> Any:
        """Submit a job; repeats it while the head is still starting."""
        return self._client.submit_job(**job)

    def follow(self, job: str, write: Write) -> int:
        """Pass on the output of a job until it ends; returns its exit code, or 1 if the cluster does not know it.

        Raises:
            InputError: the job server stopped answering.
        """
        try:
            asyncio.run(self._tail(job, write))
            info = self._client.get_job_info(job)
        except BrokenPipeError:  # of `write`
            raise
        except (ClientError, OSError, RuntimeError) as fault:
            raise InputError(f"{self._where}: lost contact with job {job}, which may go on: {_line(fault)}") from None
        if info.driver_exit_code is not None:
            return int(info.driver_exit_code)
        return 0 if info.status == JobStatus.SUCCEEDED else 1

    async def _tail(self, job: str, write: Write) -> None:
        skip = self._said.get(job, 0)
        async for part in self._client.tail_job_logs(job):
            new, skip = part[skip:], max(skip - len(part), 0)
            write(_FOREWORD.sub("", new))

    def forget(self, job: str) -> None:
        """Delete the record of a job that has ended."""
        self._client.delete_job(job)


def _line(fault: Exception) -> str:
    lines = redacted(str(fault)).strip().splitlines()
    return lines[0] if lines else type(fault).__name__


def _pack(study: Study, home: Path, folder: Path) -> None:
    """Write the files of a job into a folder: the study, and its images if they are on this machine."""
    plain, config = study.model_dump(mode="json"), study.experiment.data
    if config.path is not None:
        try:
            shutil.copy(config.path, folder / "images.npz")
        except OSError as fault:
            raise InputError(f"{config.path}: cannot be read: {fault.strerror or fault}") from None
        plain["experiment"]["data"]["path"] = "images.npz"
    elif config.name is not None and is_there(parquet_path(home, config.name)):
        (folder / DATA).mkdir()
        shutil.copy(parquet_path(home, config.name), folder / DATA)
    (folder / "study.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
