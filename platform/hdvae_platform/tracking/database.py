"""MLflow's database and experiment, made once although several processes begin at the same time.

MLflow looks for its tables, and for an experiment, before it makes them; looking and making is not one step, so two
people who begin their first studies on a new database together make them twice.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "hdvae"
"""MLflow's experiment, in which all studies are parent runs, if the environment names no other."""
CREATION_WAIT = 30.0
"""Seconds for another process to make the tables or the experiment that this one was about to make."""
_CREATED = re.compile("already exists|UNIQUE constraint|duplicate key", re.IGNORECASE)
"""What MLflow and databases say of a table, a row or an experiment that another process has made."""


def _created_elsewhere(fault: BaseException) -> bool:
    return isinstance(fault, MlflowException | SQLAlchemyError) and bool(_CREATED.search(str(fault)))


@retry(
    retry=retry_if_exception(_created_elsewhere),
    wait=wait_fixed(0.1),
    stop=stop_after_delay(CREATION_WAIT),
    reraise=True,
)
def connect(address: str, artifacts: str | None) -> tuple[mlflow.MlflowClient, str]:
    """MLflow, and the id of the platform's experiment, which is made if there is none.

    Where another process makes the tables or the experiment at the same time, this one looks again.

    Args:
        address: of MLflow's server or database.
        artifacts: where the artifacts of a new experiment are stored; None leaves it to the server.
    """
    _make_file(address)
    client = mlflow.MlflowClient(tracking_uri=address)  # makes the tables of a database that has none
    name = os.environ.get(EXPERIMENT_VARIABLE, EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return client, str(found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts))


def _make_file(address: str) -> None:
    """Make the file of an SQLite address with MLflow's tables, if there is no such file.

    MLflow's migrations of SQLite are not one transaction: a process that comes upon them half-way takes part in them
    and spoils them. So the file is made in a temporary folder, and put in its place in one step: the first process to
    finish wins, and the others use its file.
    """
    file = _sqlite_file(address)
    if file is None or file.exists():
        return
    with tempfile.TemporaryDirectory(prefix="hdvae-mlflow-") as folder:
        made = Path(folder) / file.name
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
        beside = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
        # A folder that cannot be written, or a file system without hard links: MLflow tries, and says what is wrong.
        with suppress(OSError):
            try:
                shutil.copyfile(made, beside)
                file.hardlink_to(beside)
            finally:
                beside.unlink(missing_ok=True)


def _sqlite_file(address: str) -> Path | None:
    """The file of an SQLite database; None for a server, another database, or one in memory."""
    if not address.startswith("sqlite:"):
        return None
    name = make_url(address).database
    return Path(name) if name and name != ":memory:" else None
