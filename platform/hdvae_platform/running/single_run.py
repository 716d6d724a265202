"""`hdvae train`: one experiment with one seed, trained in this process as one MLflow run; the same call resumes it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from hdvae.errors import Interrupted
from hdvae.experiment.experiment import Experiment
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
from hdvae_platform.tracking.names import RunKind, Tag
from hdvae_platform.tracking.tracker import SERVER_WAIT, Tracker
from hdvae_platform.training.messages import Message, Reported, Resumed, Warned
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        run_id: the id of the MLflow run; None if MLflow was away.
        checkpoint: the address of the last checkpoint.
        last: the last entry of the journal.
    """

    run_id: str | None
    checkpoint: str
    last: Entry


def train_one(name: str, experiment: Experiment, seed: int, places: Places, echo: Callable[[str], None]) -> Trained:
    """Train an experiment to its end, from its latest checkpoint where there is one.

    Raises:
        InputError: the data are not there or do not fit.
        NonFinite: the loss is not finite any more; the MLflow run is FAILED.
        Fenced: the same experiment was started in another process, which goes on with it.
        KeyboardInterrupt: passed on; the MLflow run is KILLED, and the same call resumes the run.
    """
    dataset = load_data(experiment, places.home)
    data = provenance.data_tags(dataset)
    storage = Storage(places.storage, places.patience, echo)
    storage.check()
    if data[Tag.DATA_OVERLAP] != "none":
        echo(f"images in two splits: {data[Tag.DATA_OVERLAP]}")
    folder = single_run_folder(name, experiment.fingerprint, dataset.checksum, seed)
    upload = RunUpload(
        name=f"{name} seed {seed}",
        identity={Tag.KIND: RunKind.SINGLE, Tag.NAME: name, Tag.FINGERPRINT: experiment.fingerprint}
        | {Tag.SEED: str(seed), Tag.DATA_CHECKSUM: dataset.checksum},
        tags={**provenance.tags(), **data},
        params=settings(experiment, seed),
        storage=storage,
        folder=folder,
    )
    attempt = Attempt(storage, folder, newest_attempt(storage, folder) + 1)
    attempt.begin()
    threads, gpus = torch.get_num_threads(), int(torch.cuda.is_available())
    spec = RunSpec.of(experiment, seed, attempt, places, threads=threads, gpus=gpus, data_checksum=dataset.checksum)
    _train_tracked(spec, upload, Tracker(places, echo), Progress("valid/elbo", experiment.training.steps, 1, 0, echo))
    journal = Journal(storage, folder)
    step = journal.steps()[-1]
    return Trained(upload.run_id, Checkpoints(storage, folder).address(step), journal.entry(step))


def _train_tracked(spec: RunSpec, upload: RunUpload, tracker: Tracker, progress: Progress) -> None:
    def notify(message: Message) -> None:
        match message:
            case Warned(text):
                progress.say(text)
            case Resumed(step):
                progress.began(upload.name, step)
            case Reported(step, metrics):
                tracker.send(upload.send)
                progress.moved(upload.name, step, metrics["valid/elbo"])

    state = RunState.FAIL
    tracker.send(upload.open)
    try:
        with _signals_noted() as signalled:
            run(spec, notify, leaving=signalled)
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
        if not tracker.close(SERVER_WAIT):
            progress.say("MLflow does not have everything yet: the same command again sends the rest")


@contextmanager
def _signals_noted() -> Iterator[Callable[[], bool]]:
    """Yields whether SIGINT or SIGTERM came, inside; a second signal raises KeyboardInterrupt at once."""
    signalled = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if signalled.is_set():
            raise KeyboardInterrupt
        signalled.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signalled.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
