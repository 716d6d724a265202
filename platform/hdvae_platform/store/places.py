"""Where everything lives: one local folder by default, each part of it replaceable on a cluster."""

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
"""Where `hdvae ui` opens MLflow's pages, if the port is free."""
PATIENCE = 300.0
Store = Literal["database", "tracking"]
OWN: dict[Store, tuple[str, str]] = {
    "database": ("HDVAE_STUDY_DB", STUDY_DATABASE),
    "tracking": ("MLFLOW_TRACKING_URI", TRACKING_DATABASE),
}
"""The variable that puts a store elsewhere, and its file in the home folder where none does."""


@dataclass(frozen=True)
class Places:
    """The addresses of the study store.

    Attributes:
        home: the local folder.
        database: SQLAlchemy URL of the study database (`HDVAE_STUDY_DB`).
        tracking: MLflow's tracking address (`MLFLOW_TRACKING_URI`).
        artifacts: where MLflow keeps artifacts if its address is a database; None for a server, which knows itself.
        storage: root of checkpoints and journals, a path or a URL such as `s3://…` (`HDVAE_STORAGE`).
        patience: seconds to wait for a storage that is full or away (`HDVAE_PATIENCE`).
    """

    home: Path
    database: str
    tracking: str
    artifacts: str | None
    storage: str
    patience: float = PATIENCE

    @staticmethod
    def known(home: Path, store: Store) -> Places:
        """The places of a home folder that something was left in, for a command that reads a store; makes nothing.

        Raises:
            InputError: the store would be the home's own and is not there; names the nearest home beside it. Or as
                `under`.
        """
        variable, file = OWN[store]
        if not os.environ.get(variable) and not (home / file).exists():
            why = f"it has no {file}" if home.is_dir() else "no such folder"
            homes = [found.parent.name for found in home.absolute().parent.glob(f"*/{file}")]
            raise InputError(f"no studies in {home}: {why}{nearest(home.name, homes)}")
        return Places.under(home)

    @staticmethod
    def under(home: Path) -> Places:
        """The places of a home folder and the environment; makes the folder.

        Raises:
            InputError: the folder cannot be made, a variable is no number, what the storage takes is not installed, or
                its address holds a secret.
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
            patience=_seconds("HDVAE_PATIENCE", PATIENCE),
        )


def _artifacts(home: Path, storage: str) -> str:
    """Beside the checkpoints if those are on S3, else in the home folder."""
    if not storage.startswith("s3://"):
        return artifacts_folder(home).as_uri()
    if importlib.util.find_spec("boto3") is None:
        raise InputError("HDVAE_STORAGE is on S3, where MLflow wants boto3: pip install 'hdvae[s3]'")
    return artifacts_beside(storage)


def _seconds(variable: str, usual: float) -> float:
    text = os.environ.get(variable) or str(usual)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{variable} is {text!r}: give seconds, 0 or more")
    return seconds


def _storage(address: str) -> str:
    """A path that means the same in every process; a URL is left as it is.

    Addresses of checkpoints are written into MLflow and shown: they may hold no secrets.
    """
    if "://" not in address:
        return str(Path(address).absolute())
    if redacted(address) != address:
        raise InputError(
            f"HDVAE_STORAGE {redacted(address)} holds a key or password: give them in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (for another store, in its own variables), or use the machine's role"
        )
    return address


def redacted(address: str) -> str:
    """An address, or a text with addresses, without the users and passwords in it.

    >>> redacted("postgresql+psycopg://me:secret@host/db")
    'postgresql+psycopg://…@host/db'
    >>> redacted("no answer from postgresql://host/db?user=me&password=secret now")
    'no answer from postgresql://host/db?user=me&password=… now'
    """
    hidden = re.sub(r"//[^\s:/@]*(:\S*)?@", "//…@", address)
    return re.sub(r"(password|secret|token)=[^&\s]+", r"\1=…", hidden)
