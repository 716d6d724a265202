"""Every estimator has a name, rules and an object; its objective is that of its samples."""

from typing import get_args

import pytest
import torch

from hdvae.experiment.estimators import RULES, EstimatorName
from hdvae.experiment.experiment import TrainingConfig
from hdvae.network.samplers import hard
from hdvae.objectives.estimators import ESTIMATORS, StepInputs
from hdvae.objectives.objectives import expected_log_weight
from tests.hdvae.oracle import build, small_config, some_images


def test_every_name_has_its_rules_and_its_object():
    assert set(get_args(EstimatorName)) == set(RULES) == set(ESTIMATORS)
    for name, estimator in ESTIMATORS.items():
        assert estimator.rules is RULES[name]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_samples_are_relaxed_or_hard_as_the_rules_say(name):
    model, images = build(small_config("skip_lvae", 2), seed=1), some_images(5)
    config = TrainingConfig(steps=1, estimator=name, estimator_samples=3)
    _, terms = ESTIMATORS[name].objective(model, StepInputs(images, 3, 0, 0.5, 0.0), config)
    weights = terms.layers[0].draw.soft
    one_hot = weights is None or torch.allclose(weights, weights.round(), atol=1e-12)
    assert one_hot == (not RULES[name].relaxed)


@pytest.mark.parametrize("name", ["straight_through", "gumbel_rao", "reinmax"])
def test_the_first_sample_of_all_estimators_is_on_the_same_noise(name):
    model, images = build(small_config("lvae", 2), seed=1), some_images(5)
    inputs = StepInputs(images, 3, 0, 0.5, 0.0)
    expected = expected_log_weight(model(images, model.noise(inputs.noise()), hard))
    objective, terms = ESTIMATORS[name].objective(model, inputs, TrainingConfig(steps=1, estimator=name))
    torch.testing.assert_close(expected_log_weight(terms), expected)
    torch.testing.assert_close(objective.value, expected.mean().to(objective.value.dtype))
