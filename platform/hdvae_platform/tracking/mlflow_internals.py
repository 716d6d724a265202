"""Every name of MLflow that its documentation does not promise; no other module uses one.

tests/study/tracking/test_mlflow_internals.py tries each: it fails when a new MLflow has moved one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

CHATTY_LOGGERS = ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc")
"""Loggers that report each step of making a database or of saving a model."""


def get(address: str, path: str) -> requests.Response:
    """A tracking server's answer to a GET request, sent with MLflow's user, token and TLS settings."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer: requests.Response = http_request(get_default_host_creds(address), path, "GET")  # type: ignore[no-untyped-call]
    return answer
