"""One run, in whatever process it is given: trains, and leaves journal, checkpoints and pictures on the storage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.evaluation.sampling import prior_samples
from hdvae.experiment.experiment import Experiment
from hdvae.network.precision import precision_caveat
from hdvae.training.loop import train
from hdvae.training.process import prepare_process
from hdvae.training.snapshot import Snapshot
from hdvae.training.state import TrainState
from hdvae.workers import ALONE, Workers
from hdvae_platform.display.image_grid import grid_png
from hdvae_platform.store import shared_data
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.images import load_data
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import samples_file, slots_file, study_of
from hdvae_platform.store.sources import Source
from hdvae_platform.store.storage import Storage
from hdvae_platform.training.computing import computing
from hdvae_platform.training.messages import Notify, Resumed, Started, Warned
from hdvae_platform.training.session import RunSession
from hdvae_platform.training.spec import RunSpec
from hdvae_platform.training.stop_watcher import StopWatcher

PICTURED_SAMPLES = 64
"""Prior samples in the picture of a run."""


def run(spec: RunSpec, notify: Notify, workers: Workers = ALONE, leaving: Callable[[], bool] = lambda: False) -> None:
    """Train one run to its end. Of several workers, each calls it; the first one sends messages and writes.

    Args:
        spec: the run.
        notify: is called with each message of the run.
        workers: the processes that train it.
        leaving: whether this process is to end soon.

    Raises:
        InputError: the data are not there or do not fit.
        NonFinite: the loss is not finite any more.
        Fenced: a newer attempt has begun.
        PeerLost: another worker does not answer.
        StorageAway: the storage has been full or away for too long.
        Interrupted: the attempt was asked to end, or a worker is leaving; what was done is kept.
    """
    if workers.is_first:
        notify(Started())
    torch.set_num_threads(spec.threads)
    prepare_process()
    experiment = parse(Experiment, spec.experiment, "experiment")
    storage = Storage(spec.storage, spec.patience, lambda line: notify(Warned(line)))
    if spec.home is None:
        dataset = shared_data.fetch(storage, study_of(spec.folder), spec.data_checksum)
    else:
        dataset = load_data(experiment, Path(spec.home))
    if dataset.checksum != spec.data_checksum:
        raise InputError(f"data set {dataset.name} is not the one that the run was started with: its checksum differs")
    device = torch.device("cuda" if spec.gpus else "cpu")
    caveat = precision_caveat(experiment.training.precision, device)
    if caveat is not None and workers.is_first:
        notify(Warned(caveat))
    attempt = Attempt(storage, spec.folder, spec.attempt)
    asked = partial(_asked_to_end, spec.request()) if workers.is_first else bool
    with StopWatcher(leaving, asked) as watcher:
        on = computing(spec.threads, workers.size, device)
        session = RunSession(attempt, notify, workers, watcher.stop_requested, Goal(**spec.goal), on)
        source = None if spec.source is None else partial(_read, Source(**spec.source), storage, notify)
        state = train(experiment, dataset, spec.seed, session, device, source)
    if workers.is_first:
        _draw_pictures(attempt, state, spec.seed)


def _read(source: Source, storage: Storage, notify: Notify) -> Snapshot:
    """The checkpoint that a run goes on from."""
    snapshot = source.read(storage)
    notify(Resumed(source.step))
    return snapshot


def _draw_pictures(attempt: Attempt, state: TrainState, seed: int) -> None:
    """Leave the pictures of a run that has ended."""
    picture = grid_png(prior_samples(state.result(), PICTURED_SAMPLES, seed), columns=16)
    attempt.check()
    attempt.storage.write(samples_file(attempt.run), picture)
    journal = Journal(attempt.storage, attempt.run)
    reports = journal.readable(journal.steps())
    if state.experiment.model.latent == "categorical" and len(reports) > 1:  # one report makes no curve
        # Takes half a second to import, which each process of a run would wait for.
        from hdvae_platform.training.slots_figure import slot_use

        history = {step: entry.metrics for step, entry in reports.items()}
        attempt.storage.write(slots_file(attempt.run), slot_use(history))


def _asked_to_end(attempt: Attempt) -> bool:
    try:
        return attempt.asked_to_end()
    except OSError:  # whoever writes to the storage waits longer for it, and raises StorageAway in the end
        return False
