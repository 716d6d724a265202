"""What commands and Ray's nodes import, imported: a process forked from one that has this has all of it."""

from __future__ import annotations

import gc
import importlib
import io
import os

from matplotlib.figure import Figure
from sqlalchemy.orm import configure_mappers

from hdvae_platform.cli import COMMANDS
from hdvae_platform.cluster import environment
from hdvae_platform.commands import study
from tests.study.helpers.nursery import unused_generator
from tests.study.helpers.stand_in import use_nursery

_MODULES = (
    *(f"hdvae_platform.commands.{command}" for command in COMMANDS),
    *(f"hdvae_platform.commands.study.{command}" for command in study.COMMANDS),
    "hdvae_platform.running.launch",
    "hdvae_platform.running.tuning",
    "hdvae_platform.paper.reproduce",
    "hdvae_platform.tracking.registry",
    # MLflow imports these when it is given the address of a database, or a model.
    "mlflow.pyfunc.loaders.code_model",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    # Optuna imports these when it is.
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    # What Ray imports when it starts, and Tune when it is done.
    "pydantic.v1",
    "pyarrow.dataset",
    "pyarrow.json",
    "ray.air.integrations.comet",
    "ray.air.integrations.mlflow",
    "ray.air.integrations.wandb",
    "ray.autoscaler._private.util",
    "ray.autoscaler.v2.utils",
    "ray.dag",
    "ray.dashboard.optional_deps",
    "ray.tune.logger.aim",
    # What Ray's nodes and agents import.
    "ray.dashboard.agent",
    "ray.scripts.scripts",
    # Pictures.
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
)
environment.configure()  # as the command line does before Ray is imported
_before = set(os.environ)
with unused_generator():
    for _name in _MODULES:
        importlib.import_module(_name)
configure_mappers()
use_nursery()

SET = {name: os.environ[name] for name in set(os.environ) - _before}
"""What modules added to the environment as they were imported."""


def _blank(kind: str) -> bytes:
    picture = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(picture, format=kind)
    return picture.getvalue()


BLANK = {kind: _blank(kind) for kind in ("png", "svg")}
"""Empty pictures; and Matplotlib has done what it does at its first."""
gc.freeze()  # what is forked need not look through all this for garbage
