"""Faults of MLflow: which of them pass, and how they are put into words."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import OperationalError

from hdvae.errors import InputError
from hdvae_platform.store.places import redacted

ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
INVALID = "INVALID_PARAMETER_VALUE"

_TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}
"""MLflow's codes for faults that pass; the others mean that MLflow refuses the request itself."""
STORE_FAULTS = (MlflowException, RequestException, OperationalError, OSError)
"""What MLflow raises where its server, its database or its artifacts cannot be used."""


class Unreachable(InputError):
    """The tracking store does not answer."""


def is_transient(fault: BaseException) -> bool:
    """Whether the fault is one of a server or a database that is away, and not of the request."""
    if isinstance(fault, MlflowException):
        return fault.error_code in _TRANSIENT
    return isinstance(fault, Unreachable | RequestException | ConnectionError | TimeoutError | OperationalError)


def unreachable(address: str, fault: BaseException) -> Unreachable:
    """Why a store cannot be reached: in the system's words if there is no connection, otherwise in MLflow's."""
    if isinstance(fault, Unreachable):
        return fault
    where, chain = f"MLflow at {redacted(address)}", list(_causes(fault))
    lost = [one for one in chain if isinstance(one, OSError) and not isinstance(one, RequestException)]
    if lost and any(isinstance(one, RequestException) for one in chain):
        return Unreachable(f"{where} does not answer: {(lost[0].strerror or str(lost[0])).lower()}")
    return Unreachable(f"{where}: {first_line(fault)}")


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    """A fault and the faults that led to it."""
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


def first_line(fault: BaseException) -> str:
    """The first line of a fault's text, without the user and password of the address that MLflow repeats in it."""
    return redacted((str(fault).splitlines() or [type(fault).__name__])[0])
