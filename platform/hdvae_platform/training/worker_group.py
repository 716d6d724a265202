"""A run with several workers: one Ray Train job, started from the run's Tune process, which waits for it.

The workers are placed together or not at all. The messages of the first worker travel through a queue, since Ray Train
collects its own reports every other second only, and from all workers at once.
"""

from __future__ import annotations

import os
import threading
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

from hdvae.errors import Interrupted, PeerLost
from hdvae.workers import Workers
from hdvae_platform.cluster import environment
from hdvae_platform.cluster.ray_internals import WithoutExtraProcesses, torch_backend
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.training.messages import PROCESS_KILLED, Ended, EndKind, Message, Notify, from_wire, to_wire
from hdvae_platform.training.preemption import leaving
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec
from hdvae_platform.training.stop_watcher import StopWatcher

MESSAGE_WAIT = 0.5
"""Seconds to wait for a message before looking whether the workers are still there."""


_TorchBackend: Any = torch_backend()


class RayAddressTorchConfig(TorchConfig):
    """Ray Train's configuration of torch, for workers that reach each other at the addresses that Ray knows."""

    @property
    def backend_cls(self) -> type[_RayAddressBackend]:
        """The class that sets the workers up."""
        return _RayAddressBackend


class _RayAddressBackend(_TorchBackend):
    """Makes Gloo listen at Ray's address.

    By default it takes the address of the machine's own host name: often the loopback, where no other machine connects.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called before the workers connect to each other."""
        worker_group.execute(_listen_where_ray_does)
        super().on_start(worker_group, backend_config)


def _listen_where_ray_does() -> None:
    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if own in [address.address for address in addresses]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class LeanTorchTrainer(WithoutExtraProcesses, TorchTrainer):
    """Ray Train's trainer, without two processes for each run that are of no use here."""


def run_group(spec: RunSpec, scratch: str, notify: Notify, is_leaving: Callable[[], bool]) -> Ended:
    """Train one run to its end with `spec.workers` processes.

    Args:
        spec: the run.
        scratch: a folder for Ray Train's own records, which are never read.
        notify: is called in this process with the messages of the first worker, except for the last.
        is_leaving: whether this process, which waits for the workers, is to end soon.

    Returns:
        How the run ended.
    """
    environment.configure_training()
    # Ray puts an actor without resources anywhere: on another machine, whose end would then end this run.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    trainer = LeanTorchTrainer(
        _train,
        train_loop_config={"spec": spec.plain(), "queue": queue},
        # NCCL needs a GPU for each worker; where workers share one, Gloo copies.
        torch_config=RayAddressTorchConfig(backend="nccl" if spec.gpus >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.gpus > 0,
            resources_per_worker={"CPU": spec.threads} | ({"GPU": spec.gpus} if spec.gpus else {}),
        ),
        # The study itself starts lost runs again and counts their attempts, also after the end of a machine.
        run_config=RunConfig(
            name=spec.folder.replace("/", "-"),
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
        ),
    )
    training = _in_background(trainer.fit)
    with StopWatcher(is_leaving) as watcher:
        return _forward(training, queue, notify, watcher, spec.request())


def _forward(training: Future[Any], queue: Queue, notify: Notify, watcher: StopWatcher, attempt: Attempt) -> Ended:
    """Pass on the workers' messages until training is over, and the request to stop to the workers."""
    end: Ended | None = None
    asked = False
    while True:
        if watcher.stop_requested() and not asked:
            with suppress(StorageAway):  # then it is tried again
                attempt.ask_to_end()
                asked = True
        over = training.done()  # looked at before the queue, so that no message sent before the end is missed
        try:
            message = from_wire(queue.get(timeout=MESSAGE_WAIT))
        except Empty:
            if over:
                break
            continue
        except RayActorError:  # the queue's process was killed
            return Ended(EndKind.WORKERS_LOST, text=PROCESS_KILLED)
        if isinstance(message, Ended):
            end = end or message  # the first is the cause of the others
        elif end is None:
            notify(message)
    try:
        training.result()
    except (WorkerGroupError, RayActorError):  # of the workers, or of Ray Train's process that looks after them
        return end or Ended(EndKind.WORKERS_LOST, text=PROCESS_KILLED)
    except TrainingFailedError as fault:  # of Ray Train itself: the workers did not start, say
        return end or Ended(EndKind.WORKERS_LOST, text=f"Ray Train could not go on: {_last_line(fault)}")
    return end or Ended(EndKind.COMPLETED)


def _last_line(fault: Exception) -> str:
    lines = str(fault).strip().splitlines()
    return lines[-1] if lines else type(fault).__name__


def _in_background(act: Callable[[], Any]) -> Future[Any]:
    """Call a function in a thread that does not keep its process from ending."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(act())
        except Exception as fault:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(fault)

    threading.Thread(target=work, daemon=True).start()
    return future


def _train(config: dict[str, Any]) -> None:
    """One worker's part. It tells of its own failure; of a lost peer's failure that peer tells."""
    queue: Queue = config["queue"]
    workers = Workers.here()

    def notify(message: Message) -> None:
        queue.put(to_wire(message))

    try:
        with leaving() as is_leaving:
            run(RunSpec(**config["spec"]), notify, workers, is_leaving)
    except Interrupted as interruption:
        if workers.is_first:
            notify(Ended.by(interruption))
    except PeerLost:
        raise
    except Exception as error:
        notify(Ended.by(error))
        raise
