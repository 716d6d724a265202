"""Caveats of settings."""

from __future__ import annotations

import pytest

from hdvae.config import parse
from hdvae.experiment.experiment import Experiment
from hdvae_platform.study.caveats import caveats_of_experiment


def experiment(latent="categorical", **training):
    """Batches of 128: 20 visits of each of 256 slots take 40 steps, of each of 4,096 slots 640."""
    layers = [{"variables": 2, "classes": 256}, {"variables": 2, "classes": 4096}]
    plain = {"data": {"name": "mnist5k"}, "model": {"latent": latent, "layers": layers}}
    return parse(Experiment, {**plain, "training": {"batch_size": 128, "steps": 640, **training}}, "experiment")


def test_revival_that_comes_too_late_has_a_caveat():
    (caveat,) = caveats_of_experiment(experiment(revive=True))
    assert caveat == (
        "revive: training.revive does nothing for memories of 4,096 slots: a slot is dead after 640 steps without use, "
        "but training has 640; train for longer, or lower training.dead_after"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"revive": True, "steps": 641},
        {"revive": True, "dead_after": 19},
        {"revive": True, "latent": "normal"},
    ],
)
def test_revival_in_time_or_not_asked_for_has_none(settings):
    assert caveats_of_experiment(experiment(**settings)) == []
