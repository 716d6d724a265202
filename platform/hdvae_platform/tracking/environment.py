"""The settings that MLflow reads from the environment, and the level of its loggers.

Importing the platform changes neither. The command line calls `configure` before it runs a command. The library's
functions `hdvae_platform.load` and `hdvae_platform.results` are guests in another program, which may use MLflow itself:
they ask MLflow inside `configured`, which puts everything back as it was.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hdvae_platform.tracking.mlflow_internals import CHATTY_LOGGERS

REQUIRED = {
    # The tracker repeats a request itself, after it has looked whether the request got through although its answer was
    # lost: if MLflow repeated the request that makes a run, there would be two runs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # MLflow prints the address of each run that ends, with the user and password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Set whatever the environment says: exactly-once runs and the secrecy of passwords depend on them."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Set unless the environment says otherwise."""


def configure() -> None:
    """Set MLflow's variables in this process's environment, and let its loggers print warnings only.

    To be called before MLflow is imported: it starts its telemetry as it is imported. Calling it again does nothing.
    """
    os.environ.update(REQUIRED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def configured() -> Iterator[None]:
    """Have MLflow's settings in force inside; the environment and the levels of loggers are those of before again."""
    before = {name: os.environ.get(name) for name in (*REQUIRED, *DEFAULTS)}
    levels = {name: logging.getLogger(name).level for name in CHATTY_LOGGERS}
    configure()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
