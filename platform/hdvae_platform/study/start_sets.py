"""Checks of the parameter sets with which a search starts (`search.start_with`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.study.study import Study


def check_start_sets(study: Study, where: str) -> None:
    """Check that the search can start with these sets.

    Raises:
        InputError: one is not in the space, is there twice, or makes no valid experiment; there are more than trials;
            or the search is a grid, which tries all sets in their order. One line for each fault.
    """
    given, at = study.search.start_with, f"{where}: search.start_with"
    if given and study.search.method.name == "grid":
        raise InputError(f"{at}: a grid tries all its sets in the order of the space: leave start_with out")
    faults = []
    if study.search.trials is not None and len(given) > study.search.trials:
        faults.append(f"{at}: {len(given)} sets are more than search.trials, {study.search.trials}")
    wrong = [f"{at}.{place}: {fault}" for place, params in enumerate(given) for fault in _faults(study, params)]
    faults += wrong
    sets = [] if wrong else study.start_sets()
    for place, params in enumerate(sets):
        if params in sets[:place]:
            faults.append(f"{at}.{place}: is the same as {at.rpartition(': ')[2]}.{sets.index(params)}")
            continue
        try:
            study.experiment_at(params)
        except InputError as fault:
            faults.append(f"{at}.{place}: {str(fault).splitlines()[0]}")
    if faults:
        raise InputError("\n".join(faults))


def _faults(study: Study, params: dict[str, Any]) -> Iterator[str]:
    """Every setting that varies has a value of its dimension, and no other setting has one."""
    for path in params:
        if path not in study.space:
            yield f"{path} is not varied{nearest(path, study.space)}"
    for path, dimension in study.space.items():
        if not dimension.applies(params):
            if path in params:
                when = ", ".join(f"{other} = {json.dumps(value)}" for other, value in dimension.when.items())
                yield f"{path} varies only when {when}: leave it out of this set"
        elif path not in params:
            yield f"{path} is missing: a set has a value for each setting that varies"
        elif not dimension.admits(params[path]):
            yield f"{path} = {json.dumps(params[path])} is not in the space: it is {dimension}"
