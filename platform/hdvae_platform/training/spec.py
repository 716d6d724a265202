"""`RunSpec`: everything that a process needs to know to train one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hdvae.experiment.experiment import Experiment
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.journal import ELBO, Goal
from hdvae_platform.store.places import Places
from hdvae_platform.store.sources import Source
from hdvae_platform.store.storage import Storage


@dataclass(frozen=True)
class RunSpec:
    """What a process needs to know to train a run; JSON-like values only, so that it crosses processes unchanged.

    Attributes:
        folder: the run's folder, below the storage root.
        attempt: the number of this attempt, by which a newer one shuts it out.
        seed: the seed of everything random.
        experiment: the experiment as JSON-like values.
        home: the local folder with the data sets; None if the images are read from the storage.
        storage: the root of the storage.
        threads: CPU threads of each worker.
        gpus: GPUs of each worker; 0 trains on the CPU.
        data_checksum: the checksum of the images that the driver read.
        workers: the number of processes that train the run.
        grouped: whether the workers are a group of processes of their own; otherwise the run's only process trains it.
        patience: seconds to wait for a storage that is full or away.
        goal: the fields of the `Goal` by which the best checkpoint is chosen.
        source: the fields of the `Source` that the run goes on from; None if it starts with initial weights.
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
    grouped: bool = False
    patience: float = 0.0
    goal: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] | None = None

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
        grouped: bool = False,
        elsewhere: bool = False,
        goal: Goal = ELBO,
        source: Source | None = None,
    ) -> RunSpec:
        """The spec of a run, with paths valid in every process. If `elsewhere`, it may run without the home folder."""
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
            grouped=grouped,
            patience=places.patience,
            goal=asdict(goal),
            source=None if source is None else asdict(source),
        )

    def plain(self) -> dict[str, Any]:
        """The spec as JSON-like values."""
        return asdict(self)

    def request(self) -> Attempt:
        """The attempt, for sending or reading a request to end; on a storage that does not answer it fails at once."""
        return Attempt(Storage(self.storage), self.folder, self.attempt)
