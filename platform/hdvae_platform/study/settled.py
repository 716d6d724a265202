"""A study with the defaults filled in that depend on the study as a whole: what a search is, once it has begun."""

from __future__ import annotations

from hdvae_platform.study.annealing import default_grace
from hdvae_platform.study.search_config import MethodConfig, PrunerConfig
from hdvae_platform.study.study import Study


def settled(study: Study, before: Study | None = None) -> Study:
    """The study with the settings of its sampler and of its pruner filled in.

    Args:
        study: a checked study.
        before: the same study as it was recorded; what it has stays, although the number of trials may have changed.
    """
    method, pruner = study.search.method, study.search.pruner
    update = {
        "method": (method if before is None else _kept(method, before.search.method)).suiting(study.search.trials),
        "pruner": None if pruner is None else _with_grace(study, pruner),
    }
    return study.model_copy(update={"search": study.search.model_copy(update=update)})


def _kept(method: MethodConfig, before: MethodConfig) -> MethodConfig:
    """A method with the recorded settings that it does not give itself."""
    if method.name != before.name:
        return method
    given = method.settings.model_dump(exclude_none=True)
    return method.model_copy(update={method.name: before.settings.model_copy(update=given)})


def _with_grace(study: Study, pruner: PrunerConfig) -> PrunerConfig:
    if pruner.grace is not None:
        return pruner
    settings = pruner.settings.model_copy(update={"grace": default_grace(study)})
    return pruner.model_copy(update={pruner.name: settings})
