"""What commands and Ray's processes import, imported: a process forked from one that has this has all of it."""

from __future__ import annotations

import gc
import importlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from matplotlib.figure import Figure
from sqlalchemy.orm import configure_mappers

from hdvae_platform.cli import COMMANDS
from hdvae_platform.cluster import environment
from hdvae_platform.commands import study
from tests.study.helpers.stand_in import FIRST_JOB, JOB, RAYLET, use_nursery

_MODULES = (
    *(f"hdvae_platform.commands.{command}" for command in COMMANDS),
    *(f"hdvae_platform.commands.study.{command}" for command in study.COMMANDS),
    "hdvae_platform.running.launch",
    "hdvae_platform.running.tuning",
    "hdvae_platform.paper.reproduce",
    "hdvae_platform.tracking.registry",
    "hdvae_platform.training.slots_figure",
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
    # What Ray's workers and agents import.
    "pyarrow.parquet",
    "ray._private.runtime_env.context",
    "ray._private.workers.default_worker",
    "ray._private.workers.setup_worker",
    "ray.dashboard.agent",
    "ray.scripts.scripts",
    "torch.distributed",
    # Pictures.
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
)


@contextmanager
def _unused_generator() -> Iterator[None]:
    """Keep Ray's generator of ids from starting: all that is forked afterwards would have the same ids."""
    import ray.actor

    own = ray.actor.ActorClassID
    ray.actor.ActorClassID = SimpleNamespace(from_random=lambda: own(os.urandom(own.nil().size())))
    try:
        yield
    finally:
        ray.actor.ActorClassID = own


environment.configure()  # as the command line does before Ray is imported
_before = set(os.environ)
# Ray's workers read these as they import Ray. Those that are forked from this end with their stand-ins, not with raylets.
os.environ |= {JOB: FIRST_JOB, RAYLET: str(os.getpid())}
with _unused_generator():
    for _name in _MODULES:
        importlib.import_module(_name)
del os.environ[JOB], os.environ[RAYLET]
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
