"""Checks of the parameter sets with which a search starts (`search.start_with`)."""

from __future__ import annotations

import json
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.study.study import Study


def check_start_sets(study: Study, where: str) -> None:
    """Check that the search can start with these sets.

    Raises:
        InputError: one is not in the space, is there twice, or makes no valid experiment; there are more than trials;
            or the search is a grid, which tries all sets in their order.
    """
    given, at = study.search.start_with, f"{where}: search.start_with"
    if given and study.search.method.name == "grid":
        raise InputError(f"{at}: a grid tries all its sets in the order of the space: leave start_with out")
    for place, params in enumerate(given):
        _check_set(study, params, f"{at}.{place}")
    if study.search.trials is not None and len(given) > study.search.trials:
        raise InputError(f"{at}: {len(given)} sets are more than search.trials, {study.search.trials}")
    sets = study.start_sets()
    for place, params in enumerate(sets):
        if params in sets[:place]:
            raise InputError(f"{at}.{place}: is the same as {at.rpartition(': ')[2]}.{sets.index(params)}")
        try:
            study.experiment_at(params)
        except InputError as fault:
            raise InputError(f"{at}.{place}: {str(fault).splitlines()[0]}") from None


def _check_set(study: Study, params: dict[str, Any], at: str) -> None:
    """Every setting that varies has a value of its dimension, and no other setting has one."""
    for path in params:
        if path not in study.space:
            raise InputError(f"{at}: {path} is not varied{nearest(path, study.space)}")
    for path, dimension in study.space.items():
        if not dimension.applies(params):
            if path in params:
                when = ", ".join(f"{other} = {json.dumps(value)}" for other, value in dimension.when.items())
                raise InputError(f"{at}: {path} varies only when {when}: leave it out of this set")
        elif path not in params:
            raise InputError(f"{at}: {path} is missing: a set has a value for each setting that varies")
        elif not dimension.admits(params[path]):
            raise InputError(f"{at}: {path} = {json.dumps(params[path])} is not in the space: it is {dimension}")
