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
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hdvae.errors import BoundViolated, InputError, Interrupted, NonFinite, PeerLost
from hdvae.workers import Workers
from hdvae_platform.cluster.ray_internals import WithoutExtraProcesses, torch_backend
from hdvae_platform.store.attempts import Attempt, Fenced
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.training import run
from hdvae_platform.training.preemption import leaving
from hdvae_platform.training.stop_watcher import Notice

os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process for each run; the workers look themselves
# Where the cluster is full, a run waits for its workers, however long; and Train says nothing that anybody would read.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(7 * 24 * 3600))

KILLED = "its process was killed"
"""What is said of a run whose process, or one of whose workers, ended without a word."""
PATIENCE = 0.5
"""Seconds to wait for word before seeing whether the workers are still there."""


class WorkerFailed(Exception):
    """Training failed in a worker; the text is what it said."""


class WorkerCrashed(Exception):
    """A worker raised what no user could understand; the text is its traceback. The run may go on."""


class WorkersLost(Exception):
    """Workers were killed, did not start, or do not answer: the run may go on from its last checkpoint."""


_TorchBackend: Any = torch_backend()


class TogetherTorch(TorchConfig):
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


class TogetherTrainer(WithoutExtraProcesses, TorchTrainer):
    """Ray Train's, without two processes for each run that are of no use here."""


ENDS: dict[str, type[Exception]] = {
    "fenced": Fenced,
    "away": StorageAway,
    "fault": WorkerFailed,
    "crashed": WorkerCrashed,
    "interrupted": Interrupted,
}
"""What a worker may tell of its end, and how it is raised here."""


def run_together(spec: run.RunSpec, scratch: str, notify: run.Notify, is_leaving: Callable[[], bool]) -> None:
    """Train one run with `spec.workers` processes to its end.

    Args:
        spec: of the run.
        scratch: a folder for Train's own records, of which nothing is read back.
        notify: is called here with what the first worker notifies.
        is_leaving: whether this process, which waits for the workers, is to end soon.

    Raises:
        WorkerFailed: training failed in a worker.
        WorkerCrashed: a worker crashed.
        WorkersLost: a worker was killed, or the workers did not start.
        Fenced: a newer attempt has begun.
        StorageAway: the storage has been full or away for too long.
        Interrupted: the run was asked to end, or one of its processes is leaving.
    """
    # Ray puts what needs nothing anywhere: on another machine, whose end would then be this run's.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    trainer = TogetherTrainer(
        _train,
        train_loop_config={"spec": spec.plain(), "queue": queue},
        # NCCL wants a GPU for each worker; of parts of one, Gloo copies
        torch_config=TogetherTorch(backend="nccl" if spec.gpus >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.gpus > 0,
            resources_per_worker={"CPU": spec.threads} | ({"GPU": spec.gpus} if spec.gpus else {}),
        ),
        # A study retries lost runs itself, and counts its attempts: of its machine's end, too
        run_config=RunConfig(
            name=spec.folder.replace("/", "-"),
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
        ),
    )
    training = _background(trainer.fit)
    with Notice(is_leaving) as notice:
        _forward(training, queue, notify, notice, spec.request())


def _forward(training: Future[Any], queue: Queue, notify: run.Notify, notice: Notice, attempt: Attempt) -> None:
    """Pass on what the workers say until training is over, and to them that it is to end."""
    told: dict[str, Any] = {}
    asked = False
    while True:
        if notice.given() and not asked:
            with suppress(StorageAway):  # then it is tried again
                attempt.ask_to_end()
                asked = True
        over = training.done()  # seen before the queue is: what was said before the end is in it
        try:
            message = queue.get(timeout=PATIENCE)
        except Empty:
            if over:
                break
            continue
        except RayActorError:  # the queue's process was killed
            raise WorkersLost(KILLED) from None
        told = {end: message[end] for end in ENDS if end in message} | told  # what is told first stands
        if not told:
            notify(message)
    try:
        training.result()
    except (WorkerGroupError, RayActorError):  # of the workers, or of Train's process that looks after them
        if not told:
            raise WorkersLost(KILLED) from None
    except TrainingFailedError as fault:  # of Train itself: the workers did not start, say
        if not told:
            raise WorkersLost(f"Ray Train could not go on: {_line(fault)}") from None
    for end, text in told.items():
        raise ENDS[end](text)


def _line(fault: Exception) -> str:
    lines = str(fault).strip().splitlines()
    return lines[-1] if lines else type(fault).__name__


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
    workers = Workers.here()
    try:
        with leaving() as is_leaving:
            run.run(run.RunSpec(**config["spec"]), queue.put, workers, is_leaving)
    except Interrupted as interruption:
        if workers.is_first:
            queue.put({"interrupted": interruption.step})
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
        queue.put({"crashed": traceback.format_exc()})
        raise
