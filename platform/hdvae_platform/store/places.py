"""The addresses of everything that is kept: one local folder by default; on a cluster each part may be elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hdvae.errors import InputError, nearest
from hdvae_platform.store.layout import (
    STUDY_DATABASE,
    TRACKING_DATABASE,
    artifacts_beside,
    artifacts_folder,
    studies_folder,
)

UI_HOST, UI_PORT = "127.0.0.1", 5000
"""Where `hdvae ui` serves MLflow's pages, if the port is free."""
STORAGE_WAIT = 300.0
"""Seconds for which a storage that is full or does not answer is waited for, unless `HDVAE_PATIENCE` is set."""
Store = Literal["database", "tracking"]
_HOME_FILES: dict[Store, tuple[str, str]] = {
    "database": ("HDVAE_STUDY_DB", STUDY_DATABASE),
    "tracking": ("MLFLOW_TRACKING_URI", TRACKING_DATABASE),
}
"""The environment variable with a store's address, and its file in the home folder if the variable is not set."""


@dataclass(frozen=True)
class Places:
    """The addresses of the study store.

    Attributes:
        home: the home folder.
        database: SQLAlchemy URL of the study database (`HDVAE_STUDY_DB`).
        tracking: MLflow's tracking address (`MLFLOW_TRACKING_URI`).
        artifacts: where MLflow keeps artifacts if its address is a database; None for a server, which has its own.
        storage: root of checkpoints and journals, a path or a URL such as `s3://…` (`HDVAE_STORAGE`).
        patience: seconds to wait for a storage that is full or does not answer (`HDVAE_PATIENCE`).
    """

    home: Path
    database: str
    tracking: str
    artifacts: str | None
    storage: str
    patience: float = STORAGE_WAIT

    @staticmethod
    def known(home: Path, store: Store) -> Places:
        """The places of a home folder that was used before, for a command that reads a store; makes nothing.

        Raises:
            InputError: the store should be in the home folder and is not; names the nearest home beside it. Or as for
                `under`.
        """
        variable, file = _HOME_FILES[store]
        if not os.environ.get(variable) and not (home / file).exists():
            why = f"it has no {file}" if home.is_dir() else "no such folder"
            homes = [found.parent.name for found in home.absolute().parent.glob(f"*/{file}")]
            raise InputError(f"no studies in {home}: {why}{nearest(home.name, homes)}")
        return Places.under(home)

    @staticmethod
    def under(home: Path) -> Places:
        """The places of a home folder and the environment; makes the folder.

        Raises:
            InputError: the folder cannot be made, a variable is not a number, a package that the storage needs is not
                installed, or the storage's address contains a secret.
        """
        home = home.absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise InputError(f"--home {home}: cannot be made: {fault.strerror}") from None
        tracking = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home}/{TRACKING_DATABASE}"
        storage = _storage(os.environ.get("HDVAE_STORAGE") or str(studies_folder(home)))
        return Places(
            home=home,
            database=os.environ.get("HDVAE_STUDY_DB") or f"sqlite:///{home}/{STUDY_DATABASE}",
            tracking=tracking,
            artifacts=None if tracking.startswith("http") else _artifacts(home, storage),
            storage=storage,
            patience=_seconds("HDVAE_PATIENCE", STORAGE_WAIT),
        )


def _artifacts(home: Path, storage: str) -> str:
    """The address of MLflow's artifacts: beside the checkpoints if those are on S3, else in the home folder."""
    if not storage.startswith("s3://"):
        return artifacts_folder(home).as_uri()
    if importlib.util.find_spec("boto3") is None:
        raise InputError("HDVAE_STORAGE is on S3, for which MLflow needs boto3: pip install 'hdvae[s3]'")
    return artifacts_beside(storage)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{variable} is {text!r}: give seconds, 0 or more")
    return seconds


def _storage(address: str) -> str:
    """The address of the storage, a path made absolute.

    Addresses of checkpoints are written into MLflow and printed, so they must not contain secrets.
    """
    if "://" not in address:
        return str(Path(address).absolute())
    if redacted(address) != address:
        raise InputError(
            f"HDVAE_STORAGE {redacted(address)} contains a key or password: give them in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (for another store, in its own variables), or use the machine's role"
        )
    return address


def redacted(address: str) -> str:
    """An address, or a text with addresses, with users and passwords replaced by `…`.

    >>> redacted("postgresql+psycopg://me:secret@host/db")
    'postgresql+psycopg://…@host/db'
    >>> redacted("no answer from postgresql://host/db?user=me&password=secret now")
    'no answer from postgresql://host/db?user=me&password=… now'
    """
    hidden = re.sub(r"//[^\s:/@]*(:\S*)?@", "//…@", address)
    return re.sub(r"(password|secret|token)=[^&\s]+", r"\1=…", hidden)
