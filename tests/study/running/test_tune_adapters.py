"""What Tune's parts pass on to the driver; `test_launch.py` has them on a real Ray."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest

from hdvae_platform.cluster.connection import release
from hdvae_platform.running.tune_adapters import StudyCallback, StudySearcher, StudyStopper
from hdvae_platform.training.messages import Ended, EndKind, Reported
from hdvae_platform.training.tune_trainable import result_of


class Calls:
    """A driver that notes its calls."""

    def __init__(self):
        self.calls = []
        self.study = SimpleNamespace(resources=SimpleNamespace(uses_worker_group=False))

    def guard(self, act):
        return act()

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


def trial(message=None):
    return SimpleNamespace(trial_id="a", last_result=None if message is None else result_of(message))


@pytest.mark.parametrize("how", [EndKind.FAILED, EndKind.CRASHED, EndKind.INTERRUPTED])
def test_an_error_that_the_run_told_of_is_its_end(how):
    driver, end = Calls(), Ended(how, step=3, text="why")
    StudyCallback(driver).on_trial_error(0, [], trial(end))
    assert driver.calls == [("ended", "a", end)]


@pytest.mark.parametrize(
    "last", [None, Reported(10, {}), Ended(EndKind.COMPLETED), Ended(EndKind.WORKERS_LOST)], ids=str
)
def test_any_other_error_is_the_death_of_its_process(last):
    driver = Calls()
    StudyCallback(driver).on_trial_error(0, [], trial(last))
    assert driver.calls == [("died", "a")]


def test_what_killed_workers_reserved_is_released_as_housekeeping():
    """A fault of it ends no study."""
    driver = Calls()
    driver.study = SimpleNamespace(resources=SimpleNamespace(uses_worker_group=True))
    StudyCallback(driver).on_step_begin(0, [])
    assert driver.calls == [("warn_of_silence",), ("tidy", release)]


def test_reports_and_ends_arrive_as_messages():
    driver, message = Calls(), Reported(10, {"valid/elbo": -1.0})
    callback = StudyCallback(driver)
    callback.on_step_begin(0, [])
    callback.on_trial_result(0, [], trial(message), {**result_of(message), "done": False})
    callback.on_trial_complete(0, [], trial(message))
    callback.on_trial_complete(0, [], trial())
    StudyStopper(driver)("a", result_of(message))
    assert driver.calls == [
        ("warn_of_silence",),
        ("received", "a", message),
        ("ended", "a", message),
        ("ended", "a", None),
        ("should_prune", "a", message),
    ]


@pytest.mark.parametrize(
    ("spec", "is_over", "suggested"),
    [({"seed": 1}, True, {"seed": 1}), (None, False, None), (None, True, StudySearcher.FINISHED)],
)
def test_the_searcher_is_finished_once_no_run_will_come(spec, is_over, suggested):
    driver = Calls()
    driver.next_spec, driver.is_over = lambda trial_id: spec, lambda: is_over
    assert StudySearcher(driver).suggest("a") == suggested


@pytest.mark.parametrize("part", [StudySearcher, StudyCallback, StudyStopper])
def test_the_driver_is_not_pickled(part):
    assert vars(pickle.loads(pickle.dumps(part(Calls())))) == {}
