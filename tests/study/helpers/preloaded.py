"""What the commands import, imported: a process that is forked from one that has this has all of it."""

from __future__ import annotations

import importlib
import os

from sqlalchemy.orm import configure_mappers

from hdvae_platform.cli import COMMANDS
from hdvae_platform.cluster import environment
from hdvae_platform.commands import study

_MODULES = (
    *(f"hdvae_platform.commands.{command}" for command in COMMANDS),
    *(f"hdvae_platform.commands.study.{command}" for command in study.COMMANDS),
    "hdvae_platform.running.launch",
    "hdvae_platform.running.tuning",
    "hdvae_platform.paper.reproduce",
    "hdvae_platform.tracking.registry",
    # MLflow imports these when it is given the address of a database.
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)
environment.configure()  # as the command line does before Ray is imported
_before = set(os.environ)
for _name in _MODULES:
    importlib.import_module(_name)
configure_mappers()

SET = {name: os.environ[name] for name in set(os.environ) - _before}
"""What modules added to the environment as they were imported."""
