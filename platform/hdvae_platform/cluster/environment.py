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
_TRAINING = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # spares a process for each run; the workers watch themselves
    # On a full cluster a run waits for its workers as long as it takes; Ray Train's own warnings go nowhere.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(7 * 24 * 3600),
}


def configure() -> None:
    """Set what a driver's process needs. To be called before Ray is imported, which reads `RAY_AUTH_MODE` only then."""
    _set(_DRIVER)


def configure_training() -> None:
    """Set what Ray Train needs, in the process that starts a worker group."""
    _set(_TRAINING)


def _set(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
