"""The platform's vocabulary in MLflow: tags, kinds and statuses of runs, names of parameters and metrics.

No other module spells them. MLflow allows no `@` and `=` in the names of metrics: `elbo@tau=0.1` is stored as
`elbo at tau 0.1`. Everywhere else the first form is used.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from hdvae_platform.store.run_state import RunState

if TYPE_CHECKING:
    from hdvae_platform.store.records import Kind


class Tag:
    """Tags of MLflow's runs and registered models."""

    STUDY: Final = "hdvae.study"
    """The name of the study."""
    NAME: Final = "hdvae.name"
    """The name of a single run (`hdvae train`)."""
    KIND: Final = "hdvae.kind"
    """A `RunKind`."""
    TRIAL: Final = "hdvae.trial"
    SEED: Final = "hdvae.seed"
    STATE: Final = "hdvae.state"
    """A `RunState`; absent while the run is running for the first time."""
    ARM: Final = "hdvae.arm"
    """The varied settings: dotted path → value, as JSON."""
    FINGERPRINT: Final = "hdvae.fingerprint"
    """A checksum of the experiment."""
    STARTED_FROM: Final = "hdvae.started_from"
    """The handle of the run that a run goes on from; absent if it starts with initial weights."""
    SOURCE_CHECKSUM: Final = "hdvae.source_checksum"
    """The checksum of the checkpoint that a run goes on from."""
    DATA_CHECKSUM: Final = "hdvae.data_checksum"
    DATA_OVERLAP: Final = "hdvae.data_overlap"
    """Which images stand in two splits of the data, in words; `none` if no image does."""
    CHECKPOINT: Final = "hdvae.checkpoint"
    """The address of the newest checkpoint."""
    BEST_CHECKPOINT: Final = "hdvae.best_checkpoint"
    TEST_MEASURED: Final = "hdvae.test_measured"
    """How a run was evaluated on test images."""
    BEST: Final = "hdvae.best"
    """Of a study's run: the handle of the best trial's run, or those of the Pareto front."""
    FEASIBLE: Final = "hdvae.feasible"
    """Whether the trial of a run keeps the constraints of its search, `true` or `false`; of a study's run how many
    trials do. Only where the search has constraints."""
    CONSTRAINTS: Final = "hdvae.constraints"
    """Of a study's run: the constraints of its search, in words."""
    SUMMARISED: Final = "hdvae.summarised"
    """Of a study's run: how many runs its description and the registered model account for."""
    REPORTED: Final = "hdvae.reported"
    """Of a study's run: which report is among its artifacts."""
    RUN_ID: Final = "hdvae.run_id"
    """Of a registered model: the run it comes from."""
    STEP: Final = "hdvae.step"
    """Of a registered model: the step of its checkpoint."""
    DOCTOR: Final = "hdvae.doctor"
    """Of the experiment: when `hdvae doctor` last wrote to it."""
    VERSION: Final = "hdvae.version"
    SOURCES: Final = "hdvae.sources"
    GIT_DIRTY: Final = "hdvae.git_dirty"
    PYTHON: Final = "hdvae.python"
    TORCH: Final = "hdvae.torch"
    SYSTEM: Final = "hdvae.system"
    CPU: Final = "hdvae.cpu"
    GPU: Final = "hdvae.gpu"
    COMMIT: Final = "mlflow.source.git.commit"
    PARENT: Final = "mlflow.parentRunId"
    DESCRIPTION: Final = "mlflow.note.content"
    """What MLflow's page shows as the description of a run."""
    EXPERIMENT_KIND: Final = "mlflow.experimentKind"
    """Of the experiment: what MLflow's page offers for it, e.g. `MODEL_TRAINING`."""
    SAVED_VIEW: Final = "mlflow.sharedViewState."
    """How tags of the experiment begin that keep views of it (`tracking.saved_view`)."""


MODEL_TRAINING = "custom_model_development"
"""The kind of an experiment that trains models: its page opens with its runs."""


class StudyMetric:
    """Metrics of a study's run, beside those of its best trial."""

    COMPLETE: Final = "study/complete"
    PRUNED: Final = "study/pruned"
    FAILED: Final = "study/failed"
    """How many runs ended so."""
    BEST_TRIAL: Final = "study/best_trial"
    """The number of the best trial."""


class Param:
    """Parameters of MLflow's runs that are no setting of the experiment."""

    SEED: Final = "seed"
    """Of a run: its seed."""
    METRIC: Final = "metric"
    """Of a study's run: the metric that the search optimises."""
    DIRECTION: Final = "direction"
    """Of a study's run: `minimize` or `maximize`."""
    ALSO: Final = "also"
    """Of a study's run: pairs of a further metric and its direction, as JSON."""
    CONSTRAINTS: Final = "constraints."
    """How those of a study's run begin that are limits of its search: `constraints.METRIC.at_most`."""


EVALUATION = "evaluation"
"""The folder of `hdvae evaluate` among the artifacts of a run."""
REPORT = "report"
"""The folder of the report among the artifacts of a study's run."""
MODEL = "model"
"""The folder of the registered model among the artifacts of its run."""
RUN_SCHEME = "runs:/"
"""How the address of a run begins: `runs:/ID`."""
MODEL_SCHEME = "models:/"
"""How the address of a registered model begins: `models:/NAME/VERSION`."""
OWN_TAGS = "hdvae."
"""How the platform's own tags begin."""


class RunKind(StrEnum):
    """Values of `Tag.KIND`."""

    STUDY = "study"
    """A study as a whole: the parent of its runs."""
    SEARCH = "run"
    """A run of the search: a trial with one seed."""
    CONFIRMATION = "confirmation"
    """A winner of the search, trained again with a fresh seed."""
    SINGLE = "train"
    """One experiment trained by `hdvae train`."""


class Status(StrEnum):
    """MLflow's statuses of runs."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


KIND_OF: dict[Kind, RunKind] = {"search": RunKind.SEARCH, "confirmation": RunKind.CONFIRMATION}
"""MLflow's kind of a run, by the kind that the study database has."""
STATUS_OF = {
    RunState.RUNNING: Status.RUNNING,
    RunState.COMPLETE: Status.FINISHED,
    RunState.FAIL: Status.FAILED,
    RunState.PRUNED: Status.KILLED,
    RunState.WAITING: Status.KILLED,
}
"""MLflow's status of a run; one that waits was interrupted."""


def stored_name(metric: str) -> str:
    """A metric's name as MLflow takes it.

    >>> stored_name("valid/iw_elbo@S=100")
    'valid/iw_elbo at S 100'
    """
    name, at, condition = metric.partition("@")
    return f"{name} at {condition.replace('=', ' ')}" if at else name


def contract_name(stored: str) -> str:
    """The inverse of `stored_name`.

    >>> contract_name("valid/iw_elbo at S 100")
    'valid/iw_elbo@S=100'
    """
    return re.sub(r" at (\w+) (\S+)$", r"@\1=\2", stored)


def flattened(plain: Any, path: str = "") -> dict[str, Any]:
    """Dotted paths → values of JSON-like values; lists of plain numbers (schedules, τ) stay whole.

    >>> flattened({"a": {"b": 1, "c": [{"d": 2}]}, "e": [[0, 0.5]]})
    {'a.b': 1, 'a.c.0.d': 2, 'e': '[[0, 0.5]]'}
    """
    if isinstance(plain, dict):
        items = [(str(key), value) for key, value in plain.items()]
    elif isinstance(plain, list) and any(isinstance(value, dict) for value in plain):
        items = [(str(i), value) for i, value in enumerate(plain)]
    else:
        return {path: json.dumps(plain) if isinstance(plain, list) else plain}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flattened(value, f"{path}.{key}" if path else key)
    return flat
