"""Every name of Ray that its documentation does not promise; no other module uses one.

tests/study/cluster/test_ray_internals.py tries each: it fails when a new Ray has moved one. The parts of Ray Train are
imported when they are asked for, since they bring torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

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
HEAD_QUESTION = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).check_alive([], timeout=5)
"""
"""A Python program that asks the head at the address in its argument whether it is alive."""


def asks_for_tokens() -> bool:
    """Whether the Ray in this process uses tokens, as RAY_AUTH_MODE said when it was imported."""
    return bool(get_authentication_mode() == AuthenticationMode.TOKEN)


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
