"""An evaluation that several processes of this machine share: each measures its part of the images."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int64
from dataclasses import dataclass
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException

from hdvae.errors import BoundViolated, PeerLost
from hdvae.evaluation.evaluation import Evaluation, evaluate
from hdvae.experiment.experiment import EvaluationConfig
from hdvae.training.checkpoints import encode, read_checkpoint
from hdvae.training.run_files import Folder
from hdvae.training.snapshot import Snapshot, trained_model
from hdvae.workers import ALONE, Workers
from hdvae_platform.trained.unfinished import Unfinished

LOOK_EVERY = 0.5
"""Seconds between two looks at how far the processes are."""
RESULT = "result"
"""The name of the files in which the first process leaves its result."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What is to be evaluated.

    Attributes:
        snapshot: the trained run.
        pixels: the images, 0 and 1, (n, H, W).
        config: the settings of the evaluation.
        seed: the seed of the noise.
        keep: keeps the results of each chunk of images.
    """

    snapshot: Snapshot
    pixels: Tensor
    config: EvaluationConfig
    seed: int
    keep: Unfinished

    def evaluate(self, workers: Workers, progress: Progress) -> Evaluation:
        """The share of one worker, on its own GPU if there are any; the results are those of all images."""
        model = trained_model(self.snapshot).to(device_of(workers.rank))
        pixels = self.pixels.to(model.top.device)
        return evaluate(
            model,
            pixels,
            self.config,
            self.seed,
            importance=True,
            workers=workers,
            keep=self.keep,
            progress=progress,
        )


def device_of(rank: int) -> torch.device:
    """Where the process of this rank computes: on the GPUs of the machine in turn, if it has any."""
    return torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")


def evaluate_with(workers: int, job: Job, progress: Progress) -> Evaluation:
    """Evaluate with some processes, which divide the images and the cores among them.

    Args:
        workers: the number of processes; 1 is this one.
        job: what is to be evaluated.
        progress: is called with the number of images that are done and their total.

    Raises:
        BoundViolated: a measured quantity is above a certified bound.
        PeerLost: a process was killed. The others are ended.
    """
    if workers == 1:
        return job.evaluate(ALONE, progress)
    done = processes.get_context("spawn").Array(c_int64, workers)
    with TemporaryDirectory(prefix="hdvae-evaluate-") as folder:
        arguments = (workers, Path(folder), job, done)
        together = processes.spawn(_work, arguments, nprocs=workers, join=False)  # type: ignore[attr-defined,no-untyped-call]
        try:
            while not together.join(timeout=LOOK_EVERY):
                if images := sum(done.get_obj()):
                    progress(images, len(job.pixels))
        except ProcessException as fault:
            if isinstance(fault, ProcessRaisedException) and PeerLost.__name__ not in str(fault):
                raise
            raise PeerLost("a process of this evaluation was killed; is the memory too small for as many?") from fault
        result = read_checkpoint(Folder(folder), ".", RESULT)
    job.keep.fault = result.values["fault"]
    if result.values["violated"]:
        raise BoundViolated(*result.values["violated"])
    metrics = zip(result.values["metrics"], result.tensors["metrics"].tolist(), strict=True)
    return Evaluation(dict(metrics), {name: result.tensors[f"image/{name}"] for name in result.values["images"]})


def _work(rank: int, workers: int, folder: Path, job: Job, done: SynchronizedArray[int]) -> None:
    """What each of the processes does; the first writes the result."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)

    def progress(images: int, total: int) -> None:
        done[rank] = images

    found, violated = Evaluation({}, {}), ()
    try:
        found = job.evaluate(Workers(rank, workers), progress)
    except BoundViolated as fault:  # by means over all images, so in every process
        violated = fault.args
    if rank == 0:
        tensors = {f"image/{name}": values for name, values in found.per_image.items()}
        tensors["metrics"] = torch.tensor(list(found.metrics.values()), dtype=torch.float64)
        names = {"metrics": list(found.metrics), "images": list(found.per_image)}
        result = Snapshot(tensors, {**names, "violated": violated, "fault": job.keep.fault})
        data, manifest = encode(result, 0, stem=RESULT)
        (folder / f"{RESULT}.safetensors").write_bytes(data)
        (folder / f"{RESULT}.json").write_bytes(manifest)
    dist.destroy_process_group()
