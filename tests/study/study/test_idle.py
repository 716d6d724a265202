"""Settings that are varied where they have no effect."""

from __future__ import annotations

import pytest

from hdvae.config import parse
from hdvae_platform.study.caveats import caveats_of_study
from hdvae_platform.study.idle import IDLE, idle_settings
from hdvae_platform.study.study import Study

TAU = {"training.temperature": [0.5, 1.0]}


def study(space, model=None, **training):
    plain = {
        "name": "s",
        "claim": "None.",
        "experiment": {
            "data": {"name": "mnist5k"},
            "model": {"layers": [{"variables": 2, "classes": 16}], **(model or {})},
            "training": {"steps": 1000, "temperature": 0.5, **training},
        },
        "space": {path: one if isinstance(one, dict) else {"choices": one} for path, one in space.items()},
    }
    return parse(Study, plain, "study")


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (
            {"training.estimator": ["concrete", "reinmax", "straight_through"], **TAU},
            "training.temperature has no effect with training.estimator reinmax: "
            "add `when: {training.estimator: [concrete, straight_through]}`",
        ),
        (
            {**TAU, "training.estimator": ["concrete", "reinmax"]},
            "training.temperature has no effect with training.estimator reinmax: "
            "put training.estimator before it in space, and add `when: {training.estimator: concrete}`",
        ),
        (
            {"model.latent": ["categorical", "normal"], "model.layers.0.classes": [16, 64]},
            "model.layers.0.classes has no effect with model.latent normal: add `when: {model.latent: categorical}`",
        ),
        (
            {"training.freebits": [0, 1, 2], "training.freebits_per": ["batch", "image"]},
            "training.freebits_per has no effect with training.freebits 0: add `when: {training.freebits: [1, 2]}`",
        ),
        (
            {"model.race.draws": [8, 16]},
            "model.race.draws has no effect with model.reads dense: leave it out of space",
        ),
        (
            {"training.temperature_start": {"low": 0.3, "high": 0.6}},
            "training.temperature_start has no effect with training.temperature 0.5: leave it out of space",
        ),
    ],
)
def test_a_setting_without_effect_has_a_caveat(space, line):
    assert idle_settings(study(space)) == [f"space: {line}"]
    assert f"space: {line}" in caveats_of_study(study(space), 10_000)


@pytest.mark.parametrize(
    "space",
    [
        TAU,
        {"training.estimator": ["concrete", "reinmax"], "training.temperature": [0.5]},
        {
            "training.estimator": ["concrete", "reinmax"],
            "training.temperature": {"choices": [0.5, 1.0], "when": {"training.estimator": "concrete"}},
        },
        {"training.freebits": {"low": 0.0, "high": 2.0}, "training.freebits_per": ["batch", "image"]},
        {"model.latent": ["categorical", "normal"]},
    ],
)
def test_settings_with_an_effect_have_none(space):
    assert idle_settings(study(space)) == []


def test_the_table_names_settings_that_exist():
    plain = study({}).experiment.plain()
    for path in [path for rule in IDLE for path in (rule.because, *rule.settings)]:
        at = plain
        for part in path.replace("*", "0").split("."):
            at = at[int(part) if isinstance(at, list) else part]


def test_a_grid_with_fewer_trials_than_sets_says_how_many_it_leaves_out():
    space = {"training.freebits": {"choices": [0, 1, 2, 3]}}
    few = study(space).model_copy(update={"search": study(space).search.model_copy(update={"trials": 3})})
    assert [one for one in caveats_of_study(few, 10_000) if one.startswith("search: the grid has 4")] != []
    assert not any(one.startswith("search: the grid") for one in caveats_of_study(study(space), 10_000))
