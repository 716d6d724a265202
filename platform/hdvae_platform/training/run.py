"""One run, in whatever process it is given: trains, and leaves journal, checkpoints and a picture on the storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.evaluation.sampling import prior_samples
from hdvae.experiment.experiment import Experiment
from hdvae.training.loop import train
from hdvae.training.snapshot import Snapshot
from hdvae.training.state import TrainState
from hdvae.workers import ALONE, Workers
from hdvae_platform.display.image_grid import grid_png
from hdvae_platform.store import shared_data
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.images import load_data
from hdvae_platform.store.journal import ELBO, Goal, Journal
from hdvae_platform.store.layout import samples_file, slots_file, study_of
from hdvae_platform.store.per_image import write_per_image
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from hdvae_platform.training.stop_watcher import Notice

Notify = Callable[[dict[str, Any]], None]
SAMPLES = 64


@dataclass(frozen=True)
class RunSpec:
    """What a worker needs to know; only JSON-like values, so that it crosses processes as it is.

    Attributes:
        folder: of the run, below the storage root.
        attempt: the number of this attempt at it, by which a newer one shuts it out.
        seed: the seed.
        experiment: JSON-like values of the experiment.
        home: the local folder with the data sets; None if the images are read from the storage.
        storage: root of the storage.
        threads: CPU threads to compute with, in each worker.
        gpus: of each worker; 0 trains on the CPU.
        data_checksum: of the images that the driver saw.
        workers: processes that train it.
        together: whether these are a group of their own, and not the process that the run is given.
        patience: seconds to wait for a storage that is full or away.
        goal: fields of the `Goal` by which the best checkpoint is told.
    """

    folder: str
    attempt: int
    seed: int
    experiment: dict[str, Any]
    home: str | None
    storage: str
    threads: int
    gpus: float
    data_checksum: str
    workers: int = 1
    together: bool = False
    patience: float = 0.0
    goal: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        experiment: Experiment,
        seed: int,
        attempt: Attempt,
        places: Places,
        *,
        threads: int,
        gpus: float,
        data_checksum: str,
        workers: int = 1,
        together: bool = False,
        elsewhere: bool = False,
        goal: Goal = ELBO,
    ) -> RunSpec:
        """The spec of a run, with paths that mean the same in every process; `elsewhere` may be on other machines."""
        plain = experiment.plain()
        if experiment.data.path is not None:
            plain["data"]["path"] = str(Path(experiment.data.path).absolute())
        return RunSpec(
            folder=attempt.run,
            attempt=attempt.number,
            seed=seed,
            experiment=plain,
            home=None if elsewhere else str(places.home),
            storage=places.storage,
            threads=threads,
            gpus=gpus,
            data_checksum=data_checksum,
            workers=workers,
            together=together,
            patience=places.patience,
            goal=asdict(goal),
        )

    def plain(self) -> dict[str, Any]:
        """The spec as JSON-like values."""
        return asdict(self)

    def request(self) -> Attempt:
        """The attempt, to ask it to end or to see whether it is asked: neither waits for a storage that is away."""
        return Attempt(Storage(self.storage), self.folder, self.attempt)


class RunSession:
    """The session of a run on a storage: journal first, then checkpoint, then word to the driver.

    Each of its calls raises `Fenced` once a newer attempt has begun.
    """

    def __init__(
        self,
        attempt: Attempt,
        notify: Notify,
        workers: Workers = ALONE,
        stops: Callable[[], bool] = lambda: False,
        goal: Goal = ELBO,
    ) -> None:
        self.workers, self.stops, self._goal = workers, stops, goal
        self._attempt, self._notify = attempt, notify
        self._journal = Journal(attempt.storage, attempt.run)
        self._checkpoints = Checkpoints(attempt.storage, attempt.run)

    def latest(self) -> Snapshot | None:
        """The newest readable checkpoint; damaged newer ones are reported."""
        self._attempt.begin()  # again, where a driver has
        snapshot, faults = self._checkpoints.latest()
        for fault in faults:
            self._notify({"warning": f"skipped a damaged checkpoint: {fault}", "lasting": True})
        if snapshot is not None:
            self._notify({"step": snapshot.values["step"], "resumed": True})
        return snapshot

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        per_image: Mapping[str, Tensor],
        snapshot: Callable[[], Snapshot],
    ) -> None:
        """Make a report last, then tell the driver of it."""
        self._journal.append(step, metrics, self._attempt)
        write_per_image(self._attempt, "valid", step, per_image, {"step": step})
        self.save(step, snapshot())
        self._notify({"step": step, "metrics": dict(metrics)})

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Keep a checkpoint, between reports too, and the best of those that were reported."""
        best = self._journal.best(self._goal, [*self._checkpoints.steps(), step])
        self._checkpoints.save(step, snapshot, self._attempt, best)


def run(spec: RunSpec, notify: Notify, workers: Workers = ALONE, leaving: Callable[[], bool] = lambda: False) -> None:
    """Train one run to its end. Of several workers, each calls it; the first one notifies and writes.

    Args:
        spec: of the run.
        notify: is told what happens.
        workers: those that train it.
        leaving: whether this process is to end soon.

    Raises:
        InputError: the data are not there or do not fit.
        NonFinite: the loss stopped being finite.
        Fenced: a newer attempt has begun.
        PeerLost: another worker does not answer.
        StorageAway: the storage has been full or away for too long.
        Interrupted: the attempt was asked to end, or a worker is leaving; what was done is kept.
    """
    if workers.is_first:
        notify({"started": True})
    torch.set_num_threads(spec.threads)
    experiment = parse(Experiment, spec.experiment, "experiment")
    storage = Storage(spec.storage, spec.patience, lambda line: notify({"warning": line}))
    if spec.home is None:
        dataset = shared_data.fetch(storage, study_of(spec.folder), spec.data_checksum)
    else:
        dataset = load_data(experiment, Path(spec.home))
    if dataset.checksum != spec.data_checksum:
        raise InputError(f"data set {dataset.name} is not the one that the run was started with: its checksum differs")
    device = torch.device("cuda" if spec.gpus else "cpu")
    attempt = Attempt(storage, spec.folder, spec.attempt)
    asked = partial(_asked_to_end, spec.request()) if workers.is_first else bool
    with Notice(leaving, asked) as notice:
        session = RunSession(attempt, notify, workers, notice.given, Goal(**spec.goal))
        state = train(experiment, dataset, spec.seed, session, device)
    if workers.is_first:
        _draw(attempt, state, spec.seed)


def _draw(attempt: Attempt, state: TrainState, seed: int) -> None:
    """Leave the pictures of a run that has ended."""
    picture = grid_png(prior_samples(state.result(), SAMPLES, seed), columns=16)
    attempt.check()
    attempt.storage.write(samples_file(attempt.run), picture)
    if state.experiment.model.latent == "categorical":
        from hdvae_platform.training.slots_figure import (
            slot_use,  # half a second, which each process of a run would wait for
        )

        journal = Journal(attempt.storage, attempt.run)
        history = {step: journal.entry(step).metrics for step in journal.steps()}
        attempt.storage.write(slots_file(attempt.run), slot_use(history))


def _asked_to_end(attempt: Attempt) -> bool:
    try:
        return attempt.asked_to_end()
    except OSError:  # those who write to it are more patient, and tell
        return False
