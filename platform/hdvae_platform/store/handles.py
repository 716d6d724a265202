"""Handles of runs: what a user writes where a command asks for a run, and which run it means.

    first/2/0     study `first`, trial 2, seed 0
    first/best    the run with the lowest seed of the best trial of study `first`

A handle is resolved with the study database alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hdvae.errors import InputError
from hdvae_platform.store import layout
from hdvae_platform.store.best import best_trials, why_none
from hdvae_platform.store.records import Records, Run, StudyRecord

BEST = "best"
"""The last part of a handle that asks for a run of a study's best trial."""
FORMS = "STUDY/TRIAL/SEED, such as first/2/0, or STUDY/best"
"""The forms of a handle, for help texts and messages."""
_NUMBERED = re.compile(r"([^/:]+)/(\d+)/(\d+)")
_BEST = re.compile(rf"([^/:]+)/{BEST}")


@dataclass(frozen=True)
class Handle:
    """A parsed handle.

    Attributes:
        study: the name of the study.
        run: trial and seed; None for `STUDY/best`.
    """

    study: str
    run: tuple[int, int] | None


@dataclass(frozen=True)
class RunIdentity:
    """A run of a study that was started at least once.

    Attributes:
        study: the name of the study.
        trial: Optuna's number of the trial.
        seed: the seed.
        run_id: of the run in MLflow; None if MLflow has not been reached since the run started.
        folder: of the run, below the storage root.
    """

    study: str
    trial: int
    seed: int
    run_id: str | None
    folder: str

    @property
    def handle(self) -> str:
        """The handle of the run, with trial and seed."""
        return layout.handle(self.study, self.trial, self.seed)


def parse(text: str) -> Handle | None:
    """Parse a handle; None if the text does not have the form of one (an MLflow id, a folder, an address).

    >>> parse("first/2/0"), parse("first/best")
    (Handle(study='first', run=(2, 0)), Handle(study='first', run=None))
    >>> parse("runs/studies/first/trial-0002/seed-0"), parse("s3://bucket/2/0"), parse("0123abc")
    (None, None, None)
    """
    if found := _NUMBERED.fullmatch(text):
        return Handle(found[1], (int(found[2]), int(found[3])))
    found = _BEST.fullmatch(text)
    return None if found is None else Handle(found[1], None)


def resolve(handle: str, records: Records) -> RunIdentity:
    """Find the run that a handle means.

    `STUDY/best` is the complete run with the lowest seed of the best trial (`store.best`).

    Args:
        handle: `STUDY/TRIAL/SEED` or `STUDY/best`.
        records: of the study database.

    Raises:
        InputError: the text is no handle; there is no such study, trial or seed; the run was never started; the study
            has no complete run yet; or `STUDY/best` is asked for, and the study searches for several metrics.
    """
    parsed = parse(handle)
    if parsed is None:
        raise InputError(f"{handle} is no handle of a run: write {FORMS}")
    try:
        record = records.known_study(parsed.study)
    except InputError as fault:
        raise InputError(f"no run {handle}: {fault}") from None
    runs = records.runs(parsed.study)
    run = _best(record, runs) if parsed.run is None else _numbered(parsed.study, parsed.run, runs)
    if run.attempts <= records.last_attempt_of_deleted(parsed.study):
        raise InputError(f"run {handle} has not started yet: `hdvae study status {parsed.study}` shows which runs have")
    folder = layout.run_folder(parsed.study, run.trial, run.seed)
    return RunIdentity(parsed.study, run.trial, run.seed, run.run_id, folder)


def _numbered(study: str, wanted: tuple[int, int], runs: Sequence[Run]) -> Run:
    """The run of a trial and seed.

    Raises:
        InputError: the study has no such trial, or the trial no such seed.
    """
    trial, seed = wanted
    at = {(run.trial, run.seed): run for run in runs}
    if wanted in at:
        return at[wanted]
    problem = f"no run {layout.handle(study, trial, seed)}:"
    if not runs:
        raise InputError(f"{problem} study {study} has no trials yet")
    seeds = sorted(one for number, one in at if number == trial)
    if not seeds:
        has = "has" if all(run.attempts for run in runs) else "plans"
        raise InputError(f"{problem} study {study} {has} {_listed('trial', {number for number, _ in at})}")
    raise InputError(f"{problem} trial {trial} of study {study} has {_listed('seed', seeds)}")


def _best(record: StudyRecord, runs: Sequence[Run]) -> Run:
    """The run that `STUDY/best` means.

    Raises:
        InputError: no trial is complete, or the study searches for several metrics.
    """
    study = record.as_study()
    problem = f"no run {study.name}/{BEST}: study {study.name}"
    best = best_trials(study, runs)
    if not best:
        raise InputError(f"{problem} {why_none(study, runs)}")
    if study.search.also:
        front = ", ".join(layout.handle(study.name, one.number, one.seed) for one in best)
        metrics = ", ".join(study.search.objectives)
        raise InputError(f"{problem} searches for {metrics}; choose a run of its Pareto front: {front}")
    return _numbered(study.name, (best[0].number, best[0].seed), runs)


def _listed(noun: str, numbers: Iterable[int]) -> str:
    """Numbers in words, those in a row as a range.

    >>> _listed("trial", [0, 1, 2, 7]), _listed("seed", [3])
    ('trials 0 to 2, 7', 'seed 3')
    """
    ordered = sorted(numbers)
    rows = [[number for _, number in row] for _, row in itertools.groupby(enumerate(ordered), lambda at: at[1] - at[0])]
    ranges = [str(row[0]) if len(row) == 1 else f"{row[0]} to {row[-1]}" for row in rows]
    return f"{noun}{'s' if len(ordered) > 1 else ''} {', '.join(ranges)}"
