"""Every name of Ray that its documentation does not promise; no other module uses one.

tests/study/cluster/test_ray_internals.py tries each: it fails when a new Ray has moved one. The parts of Ray Train are
imported when they are asked for, since they bring torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import ray
from ray._common.tls_utils import load_certs_from_env
from ray._private import ray_constants
from ray._private.authentication.grpc_authentication_client_interceptor import (
    SyncAuthenticationMetadataClientInterceptor,
)
from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that report every file that is sent with a job."""
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Is in the environment of what runs as a Ray job."""
NO_AGENT = "No available agent"
"""What a job server says that has only just started."""
_HEAD_WAIT = 30.0
"""Seconds for a cluster's head to answer."""


@contextmanager
def on_the_loopback() -> Iterator[None]:
    """A Ray that is started inside listens on the loopback interface alone, as on systems where Ray has no clusters."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def asks_for_tokens() -> bool:
    """Whether the Ray in this process uses tokens, as RAY_AUTH_MODE said when it was imported."""
    return bool(get_authentication_mode() == AuthenticationMode.TOKEN)


def ask_head(head: str, *, token: bool) -> None:
    """Ask a cluster's head whether it is alive. Ray's client shows a token always or never, and may end the process.

    Args:
        head: HOST:PORT.
        token: whether to show the token that Ray has found here, if it has.

    Raises:
        PermissionError: the head wants a token, or another one.
        ConnectionError: no head answers there.
    """
    with _channel(head) as channel:
        shown = [SyncAuthenticationMetadataClientInterceptor()] if token else []
        ask = NodeInfoGcsServiceStub(grpc.intercept_channel(channel, *shown)).CheckAlive
        try:
            ask(CheckAliveRequest(), timeout=_HEAD_WAIT)
        except grpc.RpcError as fault:
            kind = PermissionError if fault.code() == grpc.StatusCode.UNAUTHENTICATED else ConnectionError
            raise kind(fault.details()) from None


def _channel(head: str) -> grpc.Channel:
    """A connection to a head, with the TLS certificates of Ray's if it uses them."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(head, GLOBAL_GRPC_OPTIONS)
    certificates, key, root = load_certs_from_env()
    return grpc.secure_channel(head, grpc.ssl_channel_credentials(root, key, certificates), GLOBAL_GRPC_OPTIONS)


def head_of_this_machine() -> str:
    """HOST:PORT of the head of the cluster that this machine is part of.

    Raises:
        ConnectionError: it is part of none.
    """
    return str(canonicalize_bootstrap_address("auto"))


def draining_nodes() -> Collection[str]:
    """The ids of the nodes that are about to be taken away."""
    nodes: Collection[str] = ray._private.state.state.get_draining_nodes()
    return nodes


def limits_of_growth() -> dict[str, float]:
    """What the autoscaler's configuration lets the cluster grow to; empty where Ray does not know."""
    return dict(ray._private.state.state.get_max_resources_from_cluster_config() or {})


def placement_groups() -> Iterator[Any]:
    """All placement groups of the cluster, as the messages of Ray's head (`PlacementGroupTableData`)."""
    for raw in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        yield PlacementGroupTableData.FromString(raw)


def is_orphan(group: Any) -> bool:
    """Whether the process that made a placement group is gone, and the group is not."""
    return bool(group.creator_actor_dead and group.state != PlacementGroupTableData.REMOVED)


def torch_backend() -> type:
    """The class by which Ray Train connects the workers of a group with torch."""
    from ray.train.torch.config import _TorchBackend

    backend: type = _TorchBackend
    return backend


class WithoutExtraProcesses:
    """For a subclass of Ray Train's trainer: leaves out two processes for each run that are of no use here.

    One serves data sets that Ray holds. The other gives back what killed workers had reserved, but needs Ray's
    dashboard for that, and outlives the study where there is none: the driver does it (`cluster.connection.release`).
    """

    def _create_default_callbacks(self) -> list[Any]:
        from ray.train.v2._internal.callbacks import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if not isinstance(callback, unused)]
