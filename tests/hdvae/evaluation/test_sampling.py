"""Samples of the generative model."""

import pytest
import torch

from hdvae.bounds.exact import configurations
from hdvae.evaluation.sampling import _noise, layer_resamples, prior_samples, reconstructions
from hdvae.network.samplers import independent
from hdvae.network.wiring import WIRINGS
from tests.hdvae.oracle import assert_mean, build, case, small_config, some_images

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


@every_wiring
@pytest.mark.parametrize("latent", ["categorical", "normal"])
def test_reconstructions_are_of_their_own_image(wiring, latent):
    model = build(small_config(wiring, 2, latent=latent), contrast=2.0, memory=3.0)
    images = some_images(6)
    whole = reconstructions(model, images, seed=0)
    assert whole.shape == images.shape
    changed = images.clone()
    changed[0] = 1 - changed[0]
    again = reconstructions(model, changed, seed=0)
    assert torch.equal(whole[1:], again[1:])
    assert torch.equal(whole, reconstructions(model, images, seed=0))


@every_wiring
def test_mean_reconstruction_is_the_exact_one(wiring):
    model, x, exact = case(wiring, 2)
    draws = {node: model.layer(node).at(hard) for node, hard in configurations(model).items()}
    expected = (exact.posterior.view(-1, 1, 1) * model.score(draws)[1].sigmoid()).sum(0)
    samples = reconstructions(model, x.expand(8192, 2, 3), seed=0)
    for h in range(2):
        for w in range(3):
            assert_mean(samples[:, h, w], expected[h, w].item())


@every_wiring
@pytest.mark.parametrize("levels", [1, 3])
def test_resampling_keeps_what_lies_above_and_draws_anew_what_lies_below(wiring, levels):
    """Exact means: the last row is a fresh prior sample, the row of z_1 is E[x | z_{>1}]."""
    model, _, exact = case(wiring, levels)
    drawn = layer_resamples(model, samples=2, times=512, seed=0)
    assert drawn.shape == (2, levels, 513, 2, 3)
    assert torch.equal(drawn[:, :, 0], drawn[:, :1, 0].expand(2, levels, 2, 3)), "each row begins with its sample"
    values = configurations(model)
    pictures = model.score({node: model.layer(node).at(hard) for node, hard in values.items()})[1].sigmoid()
    anew = (exact.prior.view(-1, 1, 1) * pictures).sum(0)
    for h in range(2):
        for w in range(3):
            assert_mean(drawn[0, -1, 1:, h, w].detach(), anew[h, w].item())
    if levels == 1:
        return
    kept, _ = model.generate(_noise(model, 2, 0, "prior samples"), independent)
    above = [node for node in model.nodes if node.level > 1]
    same = torch.stack([(values[node] == kept[node].hard[0]).all(1) for node in above]).all(0)
    weights = exact.prior * same
    expected = (weights.view(-1, 1, 1) * pictures).sum(0) / weights.sum()
    for h in range(2):
        for w in range(3):
            assert_mean(drawn[0, 0, 1:, h, w].detach(), expected[h, w].item())
