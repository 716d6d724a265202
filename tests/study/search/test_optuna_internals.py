"""Each name that is used beyond Optuna's public interface, so that a new Optuna fails here first."""

from __future__ import annotations

import inspect

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from hdvae_platform.search.optuna_internals import find_trial, queued_params, running_trial


@pytest.fixture
def study():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield optuna.create_study()
    optuna.logging.set_verbosity(verbosity)


def test_a_trial_knows_its_id_in_the_storage(study):
    asked = study.ask()
    (frozen,) = study.get_trials()
    assert isinstance(frozen, FrozenTrial)
    assert frozen._trial_id == asked._trial_id


def test_a_trial_is_made_of_a_study_and_an_id():
    assert list(inspect.signature(optuna.Trial.__init__).parameters)[1:3] == ["study", "trial_id"]


def test_a_running_trial_takes_reports_and_attributes(study):
    study.ask()
    again = running_trial(study, study.get_trials()[0])
    again.report(1.5, 10)
    again.set_user_attr("a", "b")
    (frozen,) = study.get_trials()
    assert (frozen.intermediate_values, frozen.user_attrs) == ({10: 1.5}, {"a": "b"})


def test_a_storage_finds_a_trial_by_its_number(study):
    assert callable(BaseStorage.get_trial_id_from_study_id_trial_number)
    for _ in range(3):
        study.ask()
    storage = study._storage
    study_id = storage.get_study_id_from_name(study.study_name)
    assert find_trial(storage, study_id, 2).number == 2


def test_a_queued_trial_keeps_its_parameters_until_it_is_asked_for(study):
    study.enqueue_trial({"x": 3.0})
    (waiting,) = study.get_trials()
    assert (queued_params(waiting), waiting.params) == ({"x": 3.0}, {})
    study.ask()
    study.ask()
    first, second = study.get_trials()
    assert queued_params(first) == {"x": 3.0}
    assert queued_params(second) is None
