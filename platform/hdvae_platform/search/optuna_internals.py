"""Everything used of Optuna beyond its public interface; tests/study/search/test_optuna_internals.py tries each name.

Optuna's public calls search all trials of a study to find one. With these functions the cost of a report does not
depend on the number of trials.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial


def running_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """A handle on a trial that was asked for earlier, maybe by another process; it takes reports and attributes."""
    return optuna.Trial(study, trial._trial_id)


def find_trial(storage: BaseStorage, study_id: int, number: int) -> FrozenTrial:
    """A trial as Optuna keeps it.

    Args:
        storage: of the study.
        study_id: Optuna's id of the study.
        number: the trial's.
    """
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))


def queued_params(trial: FrozenTrial) -> dict[str, Any] | None:
    """The parameters with which a trial was queued; None if it was not."""
    return trial.system_attrs.get("fixed_params")
