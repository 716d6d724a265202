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
from hdvae_platform.study.space import RAMP_FIELDS, set_key

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


def marked(label: str, feasible: bool | None) -> str:
    """The label of a trial, with a mark where it does not keep the constraints of its search.

    >>> marked("freebits 2", False), marked("freebits 2", None)
    ('freebits 2 (infeasible)', 'freebits 2')
    """
    return f"{label} (infeasible)" if feasible is False else label


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

    An arm that is one whole trial has the trial's number, or STUDY/TRIAL where the arms come from several studies. An
    arm that pools several trials, or that shares its trial with another arm, has a letter.

    Args:
        each: the trials of each arm.

    >>> arm_names([[("first", 2)], [("first", 0), ("first", 1)]]), arm_names([[("first", 2)], [("second", 2)]])
    (['2', 'A'], ['first/2', 'second/2'])
    """
    several = len({study for trials in each for study, _ in trials}) > 1
    arms_of_trial = Counter(trial for trials in each for trial in trials)
    letters, names = _letters(), []
    for trials in each:
        study, number = next(iter(trials), ("", 0))
        whole = len(trials) == 1 and arms_of_trial[study, number] == 1
        names.append(_trial_name(study, number, several) if whole else next(letters))
    return names


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
    lettered = {name: trials for name, trials in zip(names, each, strict=True) if name.isalpha()}
    sentences = []
    if len(lettered) < len(names):
        sentences.append(
            "Arms are named STUDY/TRIAL, by their trials." if several else "Arms are numbered by their trials."
        )
    if lettered:
        shared = any(len(trials) == 1 for trials in lettered.values())
        listed = "; ".join(f"{name}: {_listed_trials(trials, several)}" for name, trials in lettered.items())
        kind = "pools several trials or is a part of one" if shared else "pools several trials"
        sentences.append(f"A letter names an arm that {kind}: {listed}.")
    return " ".join(sentences)


def _listed_trials(trials: Trials, several: bool) -> str:
    """The first few trials of an arm, and how many more there are."""
    ordered = sorted(trials)
    more = f" and {len(ordered) - MAX_TRIALS_LISTED} more" if len(ordered) > MAX_TRIALS_LISTED else ""
    names = ", ".join(_trial_name(study, trial, several) for study, trial in ordered[:MAX_TRIALS_LISTED])
    return f"{'trial' if len(ordered) == 1 else 'trials'} {names}{more}"


def _trial_name(study: str, trial: int, several: bool) -> str:
    return f"{study}/{trial}" if several else str(trial)


def _letters() -> Iterator[str]:
    """A, B, …, Z, AA, AB and so on."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(letters)


def _short_path(path: str, settings: Mapping[str, Any]) -> str:
    """The shortest end of a path that no other path of the settings shares.

    A ramp's field has its ramp before it; a layer's has the layer, since the other layers may have another value.
    """
    parts = path.split(".")
    least = next((len(parts) - i for i, part in enumerate(parts) if part.isdigit()), 1)
    for length in range(max(least, 2 if parts[-1] in RAMP_FIELDS else 1), len(parts)):
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
