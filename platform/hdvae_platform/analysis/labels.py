"""Settings, arms and expectations in words."""

from __future__ import annotations

import itertools
import json
import re
import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hdvae_platform.display.text import brief
from hdvae_platform.study.expectation import Expectation
from hdvae_platform.study.space import set_key

Trials = Collection[tuple[str, int]]
"""The trials of an arm: (study, number of the trial)."""
MAX_TRIALS_LISTED = 6


def label(settings: Mapping[str, Any]) -> str:
    """Settings in words: the last part of each path, and its value to four digits.

    `distinct_labels` tells apart several sets of settings that this shows alike.

    >>> label({"model.latent": "categorical", "training.temperature": [[0, 0.8], [100, 0.1]]})
    'latent categorical, temperature 0.8→0.1 at 100'
    """
    parts = [f"{_short_path(path, settings)} {brief(value)}" for path, value in settings.items()]
    return ", ".join(parts) or "the experiment"


def distinct_labels(each: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each set of settings; those that would look alike show whole paths and values.

    >>> distinct_labels([{"training.freebits": 0.10001}, {"training.freebits": 0.10002}, {"training.freebits": 2.0}])
    ['training.freebits 0.10001', 'training.freebits 0.10002', 'freebits 2.0']
    """
    keys = [set_key(settings) for settings in each]
    short = {key: label(settings) for key, settings in zip(keys, each, strict=True)}
    counted = Counter(short.values())
    return [
        short[key] if counted[short[key]] == 1 else ", ".join(f"{path} {json.dumps(value)}" for path, value in one)
        for key, one in zip(keys, (settings.items() for settings in each), strict=True)
    ]


def arm_names(each: Sequence[Trials]) -> list[str]:
    """A short name for each arm, the same in every table and figure.

    An arm of one trial has the trial's number, or STUDY/TRIAL where the arms come from several studies; an arm that
    pools several trials has a letter.

    Args:
        each: the trials of each arm.

    >>> arm_names([[("first", 2)], [("first", 0), ("first", 1)]]), arm_names([[("first", 2)], [("second", 2)]])
    (['2', 'A'], ['first/2', 'second/2'])
    """
    several = len({study for trials in each for study, _ in trials}) > 1
    letters = _letters()
    return [_trial_name(*next(iter(trials)), several) if len(trials) == 1 else next(letters) for trials in each]


def trial_names(trials: Sequence[tuple[str, int]]) -> list[str]:
    """The names of trials: their numbers, or STUDY/TRIAL where they come from several studies."""
    several = len({study for study, _ in trials}) > 1
    return [_trial_name(study, trial, several) for study, trial in trials]


def arm_names_note(names: Sequence[str], each: Sequence[Trials]) -> str:
    """One line that says what the names of `arm_names` mean.

    >>> arm_names_note(["2", "A"], [[("first", 2)], [("first", 0), ("first", 1)]])
    'Arms are numbered by their trials. A letter names an arm that pools several trials: A: trials 0, 1.'
    """
    several = len({study for trials in each for study, _ in trials}) > 1
    sentences = []
    if any(len(trials) == 1 for trials in each):
        sentences.append(
            "Arms are named STUDY/TRIAL, by their trials." if several else "Arms are numbered by their trials."
        )
    pooled = [
        f"{name}: trials {_listed_trials(trials, several)}"
        for name, trials in zip(names, each, strict=True)
        if len(trials) > 1
    ]
    if pooled:
        sentences.append(f"A letter names an arm that pools several trials: {'; '.join(pooled)}.")
    return " ".join(sentences)


def _listed_trials(trials: Trials, several: bool) -> str:
    """The first few trials of an arm, and how many more there are."""
    ordered = sorted(trials)
    more = f" and {len(ordered) - MAX_TRIALS_LISTED} more" if len(ordered) > MAX_TRIALS_LISTED else ""
    return ", ".join(_trial_name(study, trial, several) for study, trial in ordered[:MAX_TRIALS_LISTED]) + more


def _trial_name(study: str, trial: int, several: bool) -> str:
    return f"{study}/{trial}" if several else str(trial)


def _letters() -> Iterator[str]:
    """A, B, …, Z, AA, AB and so on."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(letters)


def _short_path(path: str, settings: Mapping[str, Any]) -> str:
    """The shortest end of a path that no other path of the settings shares."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not re.fullmatch(r"\d+", parts[-length]) and sum(other.endswith(end) for other in settings) == 1:
            return end
    return path


def expectation_in_words(expectation: Expectation) -> str:
    """An expectation of a study file as a sentence.

    >>> expectation_in_words(Expectation(metric="valid/elbo", higher={"model.width": 8}, than={"model.width": 4}))
    'valid/elbo is higher with width 8 than with width 4'
    """
    metric, margin = expectation.metric, expectation.within
    if expectation.trend is not None:
        return f"{metric} {'grows' if expectation.upward else 'falls'} with {expectation.trend}"
    assert expectation.pair is not None
    first, second = (f"with {label(group)}" for group in expectation.pair)
    if margin is not None:
        return f"{metric} {first} differs by less than {margin:g} from {metric} {second}"
    return f"{metric} is {'higher' if expectation.upward else 'lower'} {first} than {second}"
