"""MLflow's model registry: the best run of each study, as code and weights that anyone with MLflow can load."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

import hdvae
from hdvae.errors import InputError
from hdvae.trained import TrainedModel
from hdvae_platform.tracking.faults import ALREADY_EXISTS
from hdvae_platform.tracking.names import MODEL, MODEL_SCHEME, RUN_SCHEME

SERVED = Path(__file__).with_name("served.py")
NEEDED = ("mlflow", "numpy", "pyarrow", "pydantic", "safetensors", "scipy", "torch")
"""The packages that a model's code and the library import."""


def save_model(model: TrainedModel, folder: Path) -> None:
    """Write a trained model in MLflow's pyfunc format: its code, its weights, and the library that reads them."""
    height, width = model.image
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, height, width))]),
        params=ParamSchema(
            [ParamSpec("what", "string", "iw_elbo"), ParamSpec("samples", "long", 100), ParamSpec("seed", "long", 0)]
        ),
    )
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "checkpoint"
        model.save(checkpoint)
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(SERVED),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[str(Path(hdvae.__file__).parent)],
            signature=signature,
            input_example=np.zeros((1, height, width), np.uint8),
            pip_requirements=[f"{name}=={_public(importlib.metadata.version(name))}" for name in NEEDED],
        )


def _public(version: str) -> str:
    """A version without its build, such as `+cpu`: package indexes hold the plain version."""
    return re.sub(r"\+.*", "", version)


def register(
    client: mlflow.MlflowClient,
    name: str,
    run_id: str,
    identity: Mapping[str, str],
    load: Callable[[], TrainedModel],
    says: str,
) -> None:
    """Register a new version of a model, unless the newest version has this identity.

    Args:
        client: MLflow.
        name: of the registered model, which is created if there is none.
        run_id: the run of the model, which stores it among its artifacts.
        identity: tags by which this version is recognised.
        load: returns the model; called only if a version is registered.
        says: description of the version.
    """
    newest = newest_version(client, name)
    if newest is not None and all(newest.tags.get(key) == value for key, value in identity.items()):
        return
    with tempfile.TemporaryDirectory() as temporary:
        save_model(load(), Path(temporary) / MODEL)
        client.log_artifacts(run_id, str(Path(temporary) / MODEL), MODEL)
    try:
        client.create_registered_model(name)
    except MlflowException as fault:
        if fault.error_code != ALREADY_EXISTS:
            raise
    client.create_model_version(name, f"{RUN_SCHEME}{run_id}/{MODEL}", run_id, dict(identity), description=says)


def newest_version(client: mlflow.MlflowClient, name: str) -> ModelVersion | None:
    """The newest version of a registered model; None if there is none."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
    return found[0] if found else None


def find_version(client: mlflow.MlflowClient, uri: str) -> ModelVersion:
    """The version of a registered model at `models:/NAME/VERSION` or `models:/NAME/latest`.

    Raises:
        InputError: there is none.
    """
    asked = re.fullmatch(rf"{MODEL_SCHEME}([^/']+)/(\d+|latest)", uri)
    if asked is None:
        raise InputError(f"{uri}: write models:/NAME/VERSION or models:/NAME/latest")
    found = newest_version(client, asked[1])
    if found is None:
        raise InputError(f"{uri}: no registered model {asked[1]}; a study is registered when it is finished")
    if asked[2] not in ("latest", str(found.version)):
        if int(asked[2]) > int(found.version):
            raise InputError(f"{uri}: the newest version of {asked[1]} is {found.version}")
        found = client.get_model_version(asked[1], asked[2])
    assert found.run_id is not None  # `register` gave it
    return found


def load(client: mlflow.MlflowClient, uri: str) -> TrainedModel:
    """The trained model in a registered one, `models:/NAME/VERSION` or `models:/NAME/latest`.

    Raises:
        InputError: there is none.
    """
    found = find_version(client, uri)
    with tempfile.TemporaryDirectory() as temporary:
        folder = client.download_artifacts(str(found.run_id), MODEL, temporary)
        return hdvae.load(Path(folder) / "artifacts" / "checkpoint")
