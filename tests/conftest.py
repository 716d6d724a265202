"""What has to be so before any test's file is read."""

import os

from hdvae_platform.tracking.environment import configure

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when the first file imports Ray
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # processes that nothing here uses
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # half a dozen processes for each server
configure()  # as the command line does, before MLflow is imported
