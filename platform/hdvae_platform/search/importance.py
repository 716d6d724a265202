"""Which varied settings matter to a study's metrics, by Optuna's PED-ANOVA."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from hdvae_platform.search.optuna_study import experimental_parts
from hdvae_platform.search.trials import optuna_storage
from hdvae_platform.study.study import Study

MIN_IMPORTANCE_TRIALS = 10
"""Complete trials below which there are no importances: PED-ANOVA needs five best trials to be stable."""


def importances(study: Study, url: str) -> dict[str, float] | None:
    """The importance of each varied setting, the largest first; they sum to 1.

    PED-ANOVA compares the distribution of a setting among the best trials with that among all; it also handles settings
    that vary only under a condition. The best trials are a tenth of all, but at least five; with several metrics those
    nearest to the Pareto front, and farthest apart on it.

    Returns:
        Dotted path → share; None if fewer than `MIN_IMPORTANCE_TRIALS` trials are complete.
    """
    try:
        known = optuna.load_study(study_name=study.name, storage=optuna_storage(url))
    except KeyError:
        return None
    complete = len(known.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if complete < MIN_IMPORTANCE_TRIALS:
        return None
    with experimental_parts():
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / complete))
        return dict(optuna.importance.get_param_importances(known, evaluator=evaluator))
