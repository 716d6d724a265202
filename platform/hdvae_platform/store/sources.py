"""Where a study's runs go on from: the checkpoints of a trial of another study, one for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdvae.errors import Damaged, InputError
from hdvae.experiment.experiment import Experiment, fingerprint
from hdvae.training.checkpoints import read_checkpoint, read_manifest
from hdvae.training.continuation import check_continuation
from hdvae.training.run_files import CHECKPOINTS, stems
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.layout import handle, run_folder
from hdvae_platform.store.records import Records
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import Study


@dataclass(frozen=True)
class Source:
    """A checkpoint that a run goes on from.

    Attributes:
        handle: of the run that wrote it.
        run: the folder of that run, below the storage root.
        stem: its files in there, without their endings.
        step: the step that it is of.
        sha256: the checksum of its tensors.
    """

    handle: str
    run: str
    stem: str
    step: int
    sha256: str

    def fingerprint(self, experiment: Experiment) -> str:
        """The fingerprint of an experiment that goes on from here: of its settings, and of the checkpoint."""
        return fingerprint([experiment.fingerprint, self.sha256])

    def read(self, storage: Storage) -> Snapshot:
        """Read the checkpoint.

        Raises:
            InputError: it is not there any more, is damaged, or has changed since the launch.
        """
        try:
            if read_manifest(storage, self.run, self.stem, self.run)["tensors"]["sha256"] != self.sha256:
                raise Damaged("it has changed since this study was launched")
            return read_checkpoint(storage, self.run, self.stem, self.run)
        except Damaged as fault:
            raise InputError(f"start_from: the checkpoint of {self.handle} cannot be read: {fault}") from None


def sources_of(
    study: Study, experiments: Sequence[Experiment], records: Records, storage: Storage
) -> Mapping[int, Source]:
    """The checkpoint that each seed of a study goes on from; empty unless the study has `start_from`.

    Args:
        study: the study.
        experiments: those of its trials, as far as they differ in what matters here.
        records: of the study database.
        storage: the studies' storage.

    Raises:
        InputError: there is no such study or trial, the run of a seed is not complete or has no checkpoint, or a trial
            cannot go on from it.
    """
    if study.source is None:
        return {}
    name, trial = study.source
    try:
        records.known_study(name)
    except InputError as fault:
        raise InputError(f"start_from: {study.start_from}: {fault}") from None
    runs = {run.seed: run for run in records.runs(name) if run.trial == trial}
    if not runs:
        raise InputError(f"start_from: study {name} has no trial {trial}")
    found = {}
    for seed in study.seeds:
        if seed not in runs:
            seeds = ", ".join(map(str, sorted(runs)))
            raise InputError(f"start_from: {study.start_from} has no run of seed {seed}: its seeds are {seeds}")
        if runs[seed].state != RunState.COMPLETE:
            raise InputError(f"start_from: {handle(name, trial, seed)} is {runs[seed].state}: it must be complete")
        found[seed] = _source(storage, name, trial, seed, experiments)
    return found


def _source(storage: Storage, study: str, trial: int, seed: int, experiments: Sequence[Experiment]) -> Source:
    folder, own = run_folder(study, trial, seed), handle(study, trial, seed)
    known = stems(storage, folder, folder)
    if not known:
        raise InputError(f"start_from: {own} has no checkpoint")
    step, name = list(known.items())[-1]
    stem = f"{CHECKPOINTS}/{name}"
    try:
        manifest = read_manifest(storage, folder, stem, folder)
    except Damaged as fault:
        raise InputError(f"start_from: the checkpoint of {own} cannot be read: {fault}") from None
    before = Experiment.from_plain(manifest["values"]["experiment"], f"checkpoint of {own}")
    for experiment in experiments:
        try:
            check_continuation(experiment, before, step)
        except InputError as fault:
            raise InputError(f"start_from: {own}: {fault}") from None
    return Source(own, folder, stem, step, manifest["tensors"]["sha256"])
