"""Where everything lives: one local folder by default, each part of it replaceable on a cluster."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hdvae.errors import InputError


@dataclass(frozen=True)
class Places:
    """The addresses of the study store.

    Attributes:
        home: the local folder.
        database: SQLAlchemy URL of the study database (`HDVAE_STUDY_DB`).
        tracking: MLflow's tracking address (`MLFLOW_TRACKING_URI`).
        artifacts: where MLflow keeps artifacts when the tracking address is the local database, else None.
        storage: root of checkpoints and journals, a path or a URL such as `s3://…` (`HDVAE_STORAGE`).
    """

    home: Path
    database: str
    tracking: str
    artifacts: str | None
    storage: str

    @staticmethod
    def under(home: Path) -> Places:
        """The places of a home folder and the environment; makes the folder.

        Raises:
            InputError: the folder cannot be made.
        """
        home = home.absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise InputError(f"--home {home}: cannot be made: {fault.strerror}") from None
        tracking = os.environ.get("MLFLOW_TRACKING_URI")
        return Places(
            home=home,
            database=os.environ.get("HDVAE_STUDY_DB") or f"sqlite:///{home}/optuna.db",
            tracking=tracking or f"sqlite:///{home}/mlflow.db",
            artifacts=None if tracking else (home / "artifacts").as_uri(),
            storage=_absolute(os.environ.get("HDVAE_STORAGE") or str(home / "studies")),
        )


def _absolute(address: str) -> str:
    """A path that means the same in every process; a URL is left as it is."""
    return address if "://" in address else str(Path(address).absolute())


def redacted(address: str) -> str:
    """An address without the user and the password that it may hold.

    >>> redacted("postgresql+psycopg://me:secret@host/db")
    'postgresql+psycopg://…@host/db'
    """
    return re.sub(r"//[^@/]*@", "//…@", address)
