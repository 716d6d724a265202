"""The studies of a study store, watched: read again and again at little cost while they run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hdvae_platform.analysis.metric_names import USUAL
from hdvae_platform.running.status import StudyState, state_of
from hdvae_platform.search.trials import Trial, known_trials, optuna_storage
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, StudyRecord
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import Study
from hdvae_platform.web.curves import Curves
from hdvae_platform.web.snapshot import Snapshot

READS = 300
"""The most journals opened and reports read for one answer, together."""
FRESH = 1.0
"""Seconds for which an answer is given again, once all is read: several open pages cost what one costs."""


@dataclass
class _Watched:
    """What is kept of a study: its curves as far as they were read, and the last answer, with its time and metric."""

    created: float
    curves: Curves
    answered: float = -math.inf
    metric: str = ""
    answer: dict[str, Any] | None = None


class Live:
    """The studies of a study store, from the study database and the journals on the storage alone.

    Its methods may be called from several threads.

    Args:
        places: where everything lives.
        clock: seconds that never go back; replaced in tests.
    """

    def __init__(self, places: Places, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records = Records(places.database)
        self._trials = optuna_storage(places.database)
        self._storage = Storage(places.storage)
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}

    def studies(self) -> list[dict[str, Any]]:
        """All studies, the newest first: name, claim, state, and how many of their runs have ended how."""
        with self._lock:
            states = [self._state(record)[1] for record in self._records.studies()]
        return [state.summary() for state in reversed(states)]

    def study(self, name: str, metric: str | None = None) -> dict[str, Any]:
        """A study as JSON-like values (`Snapshot.plain`).

        Args:
            name: of the study.
            metric: of the curves; another than those that are watched, or None, is the study's own.

        Raises:
            InputError: there is no study of this name; names the nearest.
        """
        with self._lock:
            record = self._records.known_study(name)
            study = record.as_study()
            kept = self._kept(record, study)
            shown = metric if metric in kept.curves.metrics else study.search.metric
            is_fresh = kept.metric == shown and self._clock() - kept.answered <= FRESH
            if kept.answer is None or kept.answer["unread"] or not is_fresh:
                study, state, trials = self._state(record)
                snapshot = Snapshot(study, state, trials, record.created, kept.curves)
                unread = kept.curves.read(snapshot.drawn, READS)
                kept.answer = {**snapshot.plain(shown), "unread": unread}
                kept.metric, kept.answered = shown, self._clock()
            return kept.answer

    def _state(self, record: StudyRecord) -> tuple[Study, StudyState, list[Trial]]:
        study = record.as_study()
        trials = known_trials(study, self._trials)
        return study, state_of(study, record, self._records.runs(record.name), trials), trials

    def _kept(self, record: StudyRecord, study: Study) -> _Watched:
        """What is kept of a study; nothing of one that was deleted and made again."""
        kept = self._watched.get(record.name)
        if kept is None or kept.created != record.created:
            metrics = dict.fromkeys([*study.search.objectives, *(f"valid/{name}" for name in USUAL)])
            kept = _Watched(record.created, Curves(self._storage, record.name, tuple(metrics)))
            self._watched[record.name] = kept
        return kept
