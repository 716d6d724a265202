"""A study that is watched: what a driver and its runs record, without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hdvae_platform.search.search import Assignment, Search
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study


class Driven:
    """A study in the hands of a driver. Reports are 10 s apart, on a clock of their own.

    Attributes:
        study: the study.
        places: where everything lives.
        search: which run is next.
        records: the study database.
    """

    def __init__(self, file: Path, places: Places) -> None:
        self.study, self.places, self.records = load_study(file), places, Records(places.database)
        self.records.define(self.study.name, self.study.definition(), self.study.plan(), {})
        self.search = Search(self.study, places.database, self.records)
        self._now = 1e9

    def take(self) -> None:
        """Become its driver."""
        self.records.take(self.study.name, "this test")

    def release(self) -> None:
        """Stop being its driver."""
        self.records.release(self.study.name, "this test")

    def begin(self) -> Assignment:
        """Start the next run."""
        run = self.search.next()
        assert run is not None
        self._attempt(run).begin()
        return run

    def report(self, run: Assignment, step: int, **metrics: float) -> None:
        """A report of a run: `elbo=-1.0` is its metric `valid/elbo`."""
        self._now += 10
        journal = Journal(Storage(self.places.storage), self._folder(run), lambda: self._now)
        named = {f"valid/{name}": value for name, value in metrics.items()}
        journal.append(step, named, {"train/images_per_second": 100.0}, self._attempt(run))

    def train(self, *elbos: float) -> Assignment:
        """A run from its start to its end, with a report each 10 steps."""
        run = self.begin()
        for at, elbo in enumerate(elbos, start=1):
            self.report(run, 10 * at, elbo=elbo)
        self.search.finish(run.trial, run.seed, elbos[-1])
        return run

    def _folder(self, run: Assignment) -> str:
        return run_folder(self.study.name, run.trial, run.seed)

    def _attempt(self, run: Assignment) -> Attempt:
        return Attempt(Storage(self.places.storage), self._folder(run), run.attempt)


@pytest.fixture
def driven(places: Places, edit: Callable[..., Path]) -> Callable[..., Driven]:
    """The small study with three trials, or with these changes, driven by the test."""

    def new(changes: dict[str, Any] | None = None) -> Driven:
        three = {"space": {"training.freebits": {"choices": [1.0, 2.0, 3.0]}}}
        return Driven(edit({**three, **(changes or {})}), places)

    return new
