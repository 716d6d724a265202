"""Samples of the generative model."""

import pytest
import torch
from oracle import assert_mean, build, case, configurations, small_config

from hdvae.sampling import prior_samples
from hdvae.wiring import WIRINGS

every_wiring = pytest.mark.parametrize("wiring", WIRINGS)


@every_wiring
@pytest.mark.parametrize("latent", ["categorical", "normal"])
def test_samples_are_probabilities_and_a_function_of_the_seed(wiring, latent):
    model = build(small_config(wiring, 2, latent=latent))
    samples = prior_samples(model, 7, seed=3)
    assert samples.shape == (7, 2, 3)
    assert samples.dtype == torch.float64
    assert not samples.requires_grad
    assert ((samples > 0) & (samples < 1)).all()
    assert torch.equal(samples, prior_samples(model, 7, seed=3))
    assert not torch.equal(samples, prior_samples(model, 7, seed=4))
    assert len(samples.unique(dim=0)) > 1


@every_wiring
def test_mean_image_is_the_exact_one(wiring):
    """E_p(z) of each pixel's probability, by enumeration."""
    model, _, exact = case(wiring, 2)
    draws = {node: model.layer(node).at(hard) for node, hard in configurations(model).items()}
    expected = (exact.prior.view(-1, 1, 1) * model.score(draws)[1].sigmoid()).sum(0)
    samples = prior_samples(model, 8192, seed=0)
    for h in range(2):
        for w in range(3):
            assert_mean(samples[:, h, w], expected[h, w].item())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was_and_dropout_is_off(training):
    model = build(small_config("skip_lvae", 2, dropout=0.5))
    expected = prior_samples(model, 5, seed=0)
    model.train(training)
    assert torch.equal(prior_samples(model, 5, seed=0), expected)
    assert model.training == training
