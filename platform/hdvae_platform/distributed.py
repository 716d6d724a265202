"""A run of several workers: one Ray Train job, started from the run's Tune process, which waits for it.

The workers are placed together or not at all. What the first of them has to say travels through a queue, since Train's
own reports are collected every other second, and by all workers at once.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psutil
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.queue import Empty, Queue

from hdvae.errors import BoundViolated, InputError, NonFinite, PeerLost
from hdvae.workers import Workers
from hdvae_platform import worker
from hdvae_platform.fencing import Fenced
from hdvae_platform.storage import StorageAway

PATIENCE = 0.5
"""Seconds to wait for word before seeing whether the workers are still there."""


class WorkerFailed(Exception):
    """Training failed in a worker; the text is what it said."""


class WorkersLost(Exception):
    """Workers were killed, or do not answer: the run may go on from its last checkpoint."""


class _Torch(TorchConfig):
    """Ray Train's, for workers that find each other by the addresses by which Ray found them."""

    @property
    def backend_cls(self) -> type[_Meeting]:
        """What sets the workers up."""
        return _Meeting


class _Meeting(_TorchBackend):
    """Gloo listens where the machine's own name leads to: that is often the loopback, where no other machine calls."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Told before the workers meet."""
        worker_group.execute(_listen_where_ray_does)
        super().on_start(worker_group, backend_config)


def _listen_where_ray_does() -> None:
    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if own in [address.address for address in addresses]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class _Trainer(TorchTrainer):
    """Ray Train's, without two processes for each run that are of no use here.

    One serves data sets that Ray holds. The other gives back what killed workers reserved, but needs Ray's dashboard
    for that, and outlives the study where there is none: the driver does it (`cluster.release`).
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]


def run_together(spec: worker.RunSpec, scratch: str, notify: worker.Notify) -> None:
    """Train one run with `spec.workers` processes to its end.

    Args:
        spec: of the run.
        scratch: a folder for Train's own records, of which nothing is read back.
        notify: is called here with what the first worker notifies.

    Raises:
        WorkerFailed: training failed in a worker.
        WorkersLost: a worker was killed.
        Fenced: a newer attempt has begun.
        StorageAway: the storage has been full or away for too long.
    """
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = _Trainer(
        _train,
        train_loop_config={"spec": spec.plain(), "queue": queue},
        # NCCL wants a GPU for each worker; of parts of one, Gloo copies
        torch_config=_Torch(backend="nccl" if spec.gpus >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.gpus > 0,
            resources_per_worker={"CPU": spec.threads} | ({"GPU": spec.gpus} if spec.gpus else {}),
        ),
        # A study retries lost runs itself, and counts its attempts
        run_config=RunConfig(
            name=spec.folder.replace("/", "-"), storage_path=scratch, failure_config=FailureConfig(max_failures=0)
        ),
    )
    _forward(_background(trainer.fit), queue, notify)


def _forward(training: Future[Any], queue: Queue, notify: worker.Notify) -> None:
    """Pass on what the workers say until training is over."""
    fault: str | None = None
    fence: str | None = None
    away: str | None = None
    while True:
        over = training.done()  # seen before the queue is: what was said before the end is in it
        try:
            message = queue.get(timeout=PATIENCE)
        except Empty:
            if over:
                break
            continue
        fault, fence = fault or message.get("fault"), fence or message.get("fenced")
        away = away or message.get("away")
        if fault is None and fence is None and away is None:
            notify(message)
    try:
        training.result()
    except WorkerGroupError:
        if fence is not None:
            raise Fenced(fence) from None
        if away is not None:
            raise StorageAway(away) from None
        if fault is None:
            raise WorkersLost from None
        raise WorkerFailed(fault) from None


def _background(act: Callable[[], Any]) -> Future[Any]:
    """Do something in a thread that does not keep its process from ending."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(act())
        except Exception as fault:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(fault)

    threading.Thread(target=work, daemon=True).start()
    return future


def _train(config: dict[str, Any]) -> None:
    """One worker's part. A failure of its own is told in its own words; a lost peer's is that one's to tell."""
    queue: Queue = config["queue"]
    try:
        worker.run(worker.RunSpec(**config["spec"]), queue.put, Workers.here())
    except PeerLost:
        raise
    except Fenced as fence:
        queue.put({"fenced": str(fence)})
        raise
    except StorageAway as away:
        queue.put({"away": str(away)})
        raise
    except (NonFinite, BoundViolated, InputError) as fault:
        queue.put({"fault": str(fault)})
        raise
    except Exception:
        queue.put({"fault": traceback.format_exc()})
        raise
