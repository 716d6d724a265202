"""The names of Ray that it does not promise to keep: a test fails when a new version has moved one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import ray
from ray import _raylet
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.state import GlobalState
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.core.generated.gcs_service_pb2 import CheckAliveReply
from ray.core.generated.gcs_service_pb2_grpc import (
    NodeInfoGcsServiceServicer,
    add_NodeInfoGcsServiceServicer_to_server,
)
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from hdvae_platform.cluster import ray_internals


def source(module: str) -> str:
    return Path(importlib.util.find_spec(module).origin).read_text()


@pytest.mark.parametrize("name", ray_internals.CHATTY_LOGGERS)
def test_loggers(name):
    assert "= logging.getLogger(__name__)" in source(name)


def test_what_runs_as_a_job_is_known_by_its_environment():
    assert ray_internals.JOB_VARIABLE == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_a_job_server_that_has_only_just_started():
    assert f'"{ray_internals.NO_AGENT}' in source("ray.dashboard.modules.job.job_head")


class _Head(NodeInfoGcsServiceServicer):
    def CheckAlive(self, request, context):  # noqa: N802 - Ray's name
        if "authorization" not in dict(context.invocation_metadata()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return CheckAliveReply()


def test_the_question_to_a_head(monkeypatch, tmp_path):
    """Of one that wants a token, whichever; `test_connection.py` asks real ones."""
    (tmp_path / "token").write_text("word")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(_Head(), server)
    head = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        ray_internals.ask_head(head, token=True)
        with pytest.raises(PermissionError, match="no token"):
            ray_internals.ask_head(head, token=False)
    finally:
        server.stop(None).wait()
    with pytest.raises(ConnectionError, match="onnect"):
        ray_internals.ask_head(head, token=True)


@pytest.mark.parametrize(("mode", "asks"), [("token", "True"), ("disabled", "False")])
def test_the_mode_of_authentication(mode, asks):
    code = "from hdvae_platform.cluster.ray_internals import asks_for_tokens; print(asks_for_tokens())"
    environment = {**os.environ, "RAY_AUTH_MODE": mode}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == asks


@pytest.mark.parametrize(
    "name", ["get_draining_nodes", "get_max_resources_from_cluster_config", "_connect_and_get_accessor"]
)
def test_the_state_of_a_cluster(name):
    assert callable(getattr(GlobalState, name))
    assert isinstance(ray._private.state.state, GlobalState)


def test_placement_groups():
    assert callable(_raylet.GlobalStateAccessor.get_placement_group_table)
    made = PlacementGroupTableData(creator_actor_dead=True, creator_job_id=b"a", creator_actor_id=b"b")
    assert ray_internals.is_orphan(PlacementGroupTableData.FromString(made.SerializeToString()))
    made.state = PlacementGroupTableData.REMOVED
    assert not ray_internals.is_orphan(made)
    assert not ray_internals.is_orphan(PlacementGroupTableData(placement_group_id=b"c"))


def test_the_backend_of_torch():
    assert ray_internals.torch_backend() is TorchConfig().backend_cls
    assert callable(ray_internals.torch_backend().on_start)


def test_a_trainer_without_extra_processes():
    class Lean(ray_internals.WithoutExtraProcesses, TorchTrainer):
        pass

    def kinds(trainer):
        made = trainer(print, scaling_config=ScalingConfig(num_workers=1))._create_default_callbacks()
        return {type(callback) for callback in made}

    assert kinds(TorchTrainer) - kinds(Lean) == {DatasetsCallback, PlacementGroupCleanerCallback}
    assert kinds(Lean) < kinds(TorchTrainer)
