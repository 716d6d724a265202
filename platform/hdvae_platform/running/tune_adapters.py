"""The driver as Ray Tune sees it: a source of runs, a receiver of their reports, and a condition for stopping them."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from hdvae_platform.cluster.connection import release
from hdvae_platform.running.driver import Driver
from hdvae_platform.training.messages import Ended, EndKind
from hdvae_platform.training.tune_trainable import message_in

RELEASE_EVERY = 1.0
"""Seconds between two searches for resources that killed workers had reserved."""


class _PickledWithoutDriver:
    """A part of Tune that calls the driver.

    Tune pickles its parts, to restore them by a mechanism that is not used here: the driver is left out.
    """

    _driver: Driver

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_PickledWithoutDriver, Searcher):
    """The driver as Tune's source of runs."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The spec of the next run; None if none is to be started now, `FINISHED` if none will be."""
        spec: dict[str, Any] | None = self._driver.guard(lambda: self._driver.next_spec(trial_id))
        if spec is None and self._driver.is_over():
            return str(Searcher.FINISHED)
        return spec

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: `StudyCallback`, which knows about errors, tells the driver."""


class StudyCallback(_PickledWithoutDriver, Callback):
    """Passes Tune's reports on to the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._released = driver, 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Called by Tune in each round of its loop, also when nothing happens."""
        self._driver.guard(self._driver.warn_of_silence)
        if self._driver.study.resources.uses_worker_group and time.monotonic() - self._released > RELEASE_EVERY:
            self._driver.tidy(release)
            self._released = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Called when a run reports."""
        self._driver.guard(lambda: self._driver.received(trial.trial_id, message_in(result)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Called when a run ended, or was stopped."""
        self._driver.guard(lambda: self._driver.ended(trial.trial_id, message_in(trial.last_result)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Called when a run's process ended. If the run reported no end itself, its process was killed.

        Tune's own record of the error cannot be read yet.
        """
        self._driver.guard(lambda: self._end_by_error(trial))

    def _end_by_error(self, trial: Any) -> None:
        match message_in(trial.last_result):
            case Ended(EndKind.FAILED | EndKind.CRASHED | EndKind.INTERRUPTED) as end:
                self._driver.ended(trial.trial_id, end)
            case _:
                self._driver.died(trial.trial_id)


class StudyStopper(_PickledWithoutDriver, Stopper):
    """Ends a run that is pruned, and all runs when the study stops."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a run is pruned because of its report."""
        return bool(self._driver.guard(lambda: self._driver.should_prune(trial_id, message_in(result))))

    def stop_all(self) -> bool:
        """Whether all runs are stopped."""
        return bool(self._driver.guard(self._driver.should_end_runs))
