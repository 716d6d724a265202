"""`hdvae train`: one experiment with one seed in this process, one MLflow run; the same command goes on with it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from hdvae.errors import Interrupted
from hdvae.experiment.experiment import Experiment
from hdvae.network.blocks import trunk
from hdvae.network.model import HDVAE
from hdvae.training.run_files import newest_attempt
from hdvae_platform.running.progress import Progress
from hdvae_platform.running.upload import RunUpload, settings
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.images import load_data
from hdvae_platform.store.journal import Entry, Journal
from hdvae_platform.store.layout import single_run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import PATIENCE, Tracker
from hdvae_platform.tracking.names import RunKind, Tag
from hdvae_platform.training.run import RunSpec, run


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        run_id: of MLflow; None if MLflow was away.
        checkpoint: where its last checkpoint is.
        last: its last report.
    """

    run_id: str | None
    checkpoint: str
    last: Entry


def train_one(name: str, experiment: Experiment, seed: int, places: Places, echo: Callable[[str], None]) -> Trained:
    """Train an experiment to its end, from its latest checkpoint where there is one.

    Raises:
        InputError: the data are not there or do not fit.
        NonFinite: the loss stopped being finite; the MLflow run is FAILED.
        Fenced: the same experiment was started in another process, which goes on with it.
        KeyboardInterrupt: passed on; the MLflow run is KILLED, and the same call goes on.
    """
    dataset = load_data(experiment, places.home)
    storage = Storage(places.storage, places.patience, echo)
    storage.check()
    folder = single_run_folder(name, experiment.fingerprint, dataset.checksum, seed)
    upload = RunUpload(
        name=f"{name} seed {seed}",
        identity={Tag.KIND: RunKind.SINGLE, Tag.NAME: name, Tag.FINGERPRINT: experiment.fingerprint}
        | {Tag.SEED: str(seed), Tag.DATA_CHECKSUM: dataset.checksum},
        tags=provenance.tags(),
        params=settings(experiment, seed),
        storage=storage,
        folder=folder,
    )
    attempt = Attempt(storage, folder, newest_attempt(storage, folder) + 1)
    attempt.begin()
    threads, gpus = torch.get_num_threads(), int(torch.cuda.is_available())
    spec = RunSpec.of(experiment, seed, attempt, places, threads=threads, gpus=gpus, data_checksum=dataset.checksum)
    _train_tracked(spec, upload, Tracker(places, echo), Progress("valid/elbo", experiment.training.steps, 1, 0, echo))
    last = Journal(storage, folder)
    step = last.steps()[-1]
    return Trained(upload.run_id, Checkpoints(storage, folder).address(step), last.entry(step))


def _train_tracked(spec: RunSpec, upload: RunUpload, tracker: Tracker, progress: Progress) -> None:
    def notify(message: dict[str, Any]) -> None:
        if "warning" in message:
            progress.say(message["warning"])
        if message.get("resumed"):
            progress.began(upload.name, message["step"])
        if "metrics" in message:
            tracker.send(upload.send)
            progress.moved(upload.name, message["step"], message["metrics"]["valid/elbo"])

    state = RunState.FAIL
    tracker.send(upload.open)
    try:
        with _told_to_end() as told:
            run(spec, notify, leaving=told)
        state = RunState.COMPLETE
        progress.ended(upload.name, "done")
    except Interrupted:
        state = RunState.WAITING
        raise KeyboardInterrupt from None
    except (KeyboardInterrupt, StorageAway):
        state = RunState.WAITING
        raise
    finally:
        tracker.send(lambda client: upload.close(client, state))
        if not tracker.close(PATIENCE):
            progress.say("MLflow does not have everything yet: the same command again sends the rest")


@contextmanager
def _told_to_end() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came, inside; a second one is raised as KeyboardInterrupt at once."""
    told = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(experiment: Experiment, image: tuple[int, int]) -> tuple[list[list[str]], dict[str, int]]:
    """What `--dry-run` shows: a row for each level (from the top), and the totals."""
    config = experiment.model
    model, build = HDVAE(config, image), trunk(config, image)
    rows = []
    for i in range(len(config.layers), 0, -1):
        layer = config.layers[i - 1]
        latent = f"{layer.variables}"
        if config.latent == "categorical":
            latent += f" of {layer.classes}, {'sampled top-m' if config.top_m_reads else 'dense'}"
        count = sum(parameter.numel() for parameter in model.level(i).parameters())
        rows.append([f"z_{i}", latent, "×".join(map(str, build.feature_shape(i))), f"{count:,}"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    values = sum(parameter.numel() for parameter in model.memory_values())
    return rows, {"parameters": parameters, "memory_values": values, "bytes": 4 * parameters}
