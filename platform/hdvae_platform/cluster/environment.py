"""Environment variables by which Ray is set up; they are set by these functions, not by an import.

A variable that is set already is left alone.
"""

from __future__ import annotations

import os

_DRIVER = {
    "RAY_AUTH_MODE": "token",  # nobody without the token can run code on the machine; read when Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing to Ray's makers
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables of Tune's between the lines of the study
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's later default; spares a warning in every process
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of Tune's own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver handles SIGINT
}
_WORKERS = {
    # Threads that wait for each other sleep. By default they keep their cores busy, at the cost of all that also runs.
    "OMP_WAIT_POLICY": "PASSIVE",
}
_TRAINING = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # spares a process for each run; the workers watch themselves
    # On a full cluster a run waits for its workers as long as it takes; Ray Train's own warnings go nowhere.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(7 * 24 * 3600),
}


def configure() -> None:
    """Set what a driver's process needs, and the processes that it starts.

    To be called before Ray and torch are imported: what they read, they read once.
    """
    _set(_DRIVER | _WORKERS)


def of_workers() -> dict[str, str]:
    """What the processes of a cluster need, whose machines were set up by others."""
    return {name: os.environ.get(name, value) for name, value in _WORKERS.items()}


def configure_training() -> None:
    """Set what Ray Train needs, in the process that starts a worker group."""
    _set(_TRAINING)


def _set(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
