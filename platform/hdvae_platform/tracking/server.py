"""A tracking server's own version and clock."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from hdvae_platform.tracking import mlflow_internals
from hdvae_platform.tracking.faults import STORE_FAULTS, unreachable


@dataclass(frozen=True)
class Server:
    """A tracking server: the version of its MLflow, and its clock in whole seconds since 1970."""

    version: str
    clock: float


def server(address: str) -> Server | None:
    """Ask a tracking server for its version and clock; None if the address is a database.

    Raises:
        Unreachable: it does not answer.
    """
    if not address.startswith("http"):
        return None
    try:
        answer = mlflow_internals.get(address, "/version")
        answer.raise_for_status()
    except STORE_FAULTS as fault:
        raise unreachable(address, fault) from None
    return Server(answer.text.strip(), parsedate_to_datetime(answer.headers["Date"]).timestamp())
