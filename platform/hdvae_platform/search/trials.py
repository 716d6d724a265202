"""The trials of a study as they stand in the study database.

Not every trial that Optuna keeps is one of the study's. Optuna can neither change nor remove a trial that has ended, so
some are leftovers, and one may stand in for another; user attributes say which.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hdvae.errors import InputError
from hdvae_platform.search.optuna_internals import queued_params
from hdvae_platform.store.database import makes_tables
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.space import Dimension, Params, set_key
from hdvae_platform.study.study import Study

DATABASE_FAULTS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What is raised where the study database is away."""


class Attribute:
    """User attributes of trials: `FEASIBLE` is for readers, the others are of trials that are not the study's."""

    FEASIBLE: Final = "hdvae: feasible"
    """Whether the trial keeps the constraints of the search: Optuna's page does not show the constraints themselves."""

    CUT_OFF: Final = "hdvae: cut off while its parameters were suggested"
    """The driver died between two suggestions."""
    REPEATS: Final = "hdvae: repeats trial"
    """The sampler suggested what an earlier trial had tried."""
    INSTEAD_OF: Final = "hdvae: instead of trial"
    """The trial stands in for one that failed first and succeeded later: it gives Optuna's samplers the value.

    Everywhere else the failed trial keeps its number: in the tables of runs, on the storage, in MLflow.
    """


@dataclass(frozen=True)
class Trial:
    """A trial of the study: one parameter set.

    Attributes:
        number: Optuna's number.
        state: its state; COMPLETE also if it failed at first, and was run again with success.
        params: dotted paths into the experiment → values.
        values: once complete, for each metric of the search the mean over its seeds.
        optuna_state: its state in Optuna, where a trial that failed stays so.
        last_step: the last step whose value the pruner was given; None without a pruner.
        excesses: once it has ended, by how much its means are beyond each limit of the search's constraints.
    """

    number: int
    state: RunState
    params: dict[str, Any]
    values: Sequence[float] | None
    optuna_state: RunState
    last_step: int | None = None
    excesses: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The value of the study's first metric."""
        return None if self.values is None else self.values[0]

    @property
    def is_feasible(self) -> bool:
        """Whether a trial that has ended keeps all constraints, as they were told to Optuna."""
        return all(excess <= 0 for excess in self.excesses.values())


@makes_tables
def optuna_storage(url: str) -> optuna.storages.BaseStorage:
    """Optuna's part of the study database; its tables are made where there are none."""
    return optuna.storages.get_storage(url)


def known_trials(study: Study, database: str | optuna.storages.BaseStorage) -> list[Trial]:
    """The trials of a study that were issued or wait to be; none if Optuna does not know the study yet.

    Args:
        study: the study.
        database: URL of the study database, or what `optuna_storage` opened, which reads trials that ended only once.
    """
    storage = optuna_storage(database) if isinstance(database, str) else database
    try:
        known = optuna.load_study(study_name=study.name, storage=storage)
    except KeyError:
        return []
    return own_trials(study, known.get_trials(deepcopy=False))


def check_parameters(study: Study, begun: Mapping[int, Params | None], trials: Iterable[Trial]) -> None:
    """Check that the trials of which runs are recorded have the parameters with which these were trained.

    Args:
        study: the study.
        begun: number → parameters of these trials.
        trials: those that Optuna has.

    Raises:
        InputError: one is not there, or has others.
    """
    found = {trial.number: trial.params for trial in trials}
    for number, params in begun.items():
        if number not in found:
            what = f"trial {number} has runs, but Optuna has no such trial: somebody deleted it, on Optuna's page say"
        elif params is not None and set_key(params) != set_key(found[number]):
            what = (
                f"the runs of trial {number} were trained with {json.dumps(params)}, but in Optuna it has "
                f"{json.dumps(found[number])}: somebody deleted the study there and began another"
            )
        else:
            continue
        raise InputError(
            f"study {study.name}: {what}. Restore the study database from a backup; or keep what there is with "
            f"`hdvae study export`, delete the study with `hdvae study delete {study.name}` and begin it anew"
        )


def forget_study(url: str, name: str) -> None:
    """Delete the trials of a study; it is no error if there are none."""
    with contextlib.suppress(KeyError):
        optuna.delete_study(study_name=name, storage=optuna_storage(url))


def own_trials(study: Study, trials: Iterable[FrozenTrial]) -> list[Trial]:
    """Those of Optuna's trials that are the study's, without leftovers and stand-ins."""
    trials = list(trials)
    stand_ins = {
        trial.user_attrs[Attribute.INSTEAD_OF]: trial for trial in trials if Attribute.INSTEAD_OF in trial.user_attrs
    }
    return [
        Trial(
            trial.number,
            RunState(valid.state.name),
            decoded(study, written_params(trial)),
            valid.values if valid.state == TrialState.COMPLETE else None,
            RunState(trial.state.name),
            trial.last_step,
            valid.constraints,
        )
        for trial in trials
        if trial.user_attrs.keys().isdisjoint((Attribute.CUT_OFF, Attribute.REPEATS, Attribute.INSTEAD_OF))
        for valid in [stand_ins.get(trial.number, trial)]
    ]


def written_params(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters as Optuna keeps them; of a trial that waits, those with which it was queued."""
    return dict(queued_params(trial) or trial.params)


def encoded(params: Params) -> dict[str, Any]:
    """A parameter set as Optuna keeps it."""
    return {path: encoded_value(value) for path, value in params.items()}


def encoded_value(choice: Any) -> Any:
    """A value as Optuna keeps it: its categories are plain values, so lists and mappings are written as JSON."""
    return json.dumps(choice) if isinstance(choice, list | dict) else choice


def decoded(study: Study, written: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter set that Optuna keeps in this form."""
    return {path: _decoded_value(value, study.space[path]) for path, value in written.items()}


def _decoded_value(written: Any, dimension: Dimension) -> Any:
    for choice in dimension.choices or ():
        if encoded_value(choice) == written:
            return choice
    return written
