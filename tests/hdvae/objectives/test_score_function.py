"""Score-function estimators against enumeration, and in extreme cases."""

import functools
import itertools
import math

import pytest
import torch

from hdvae.bounds.exact import configurations, enumerate_exactly, given
from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.latents.layers import stochastic_layer
from hdvae.network.samplers import independent
from hdvae.network.wiring import WIRINGS, Node
from hdvae.objectives.objectives import expected_log_weight, log_weight
from hdvae.objectives.score_function import log_q, rloo, vimco
from tests.hdvae.oracle import build, small_config, some_images, source

TAU = 0.5
NODE = Node(1, "down")
NO_FREEBITS = -1e9
HARD_FORWARD = ["straight_through", "gumbel_rao", "reinmax"]
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
every_hard_forward = pytest.mark.parametrize("name", HARD_FORWARD)


def memory(classes=4, variables=1, keys="plain", seed=0):
    layers = (LayerConfig(variables=variables, classes=classes),)
    config = ModelConfig(keys=keys, key_size=3, value_size=4, layers=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stochastic_layer(config.layers[0], config).double()


def gradient_of(model, value):
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


ESTIMATORS = {"rloo": (rloo, expected_log_weight), "vimco": (vimco, log_weight)}
every_score_estimator = pytest.mark.parametrize("name", ESTIMATORS)


@functools.cache
def tiny(wiring, variables, seed=1):
    layers = [LayerConfig(variables=n, classes=4) for n in variables]
    return build(small_config(wiring, layers=layers), seed=seed, contrast=1.5, memory=3.0), some_images(1)[0]


def expected_gradient(model, x, name, samples):
    """Of an estimator, by enumeration of all S-tuples of configurations: Σ q(z_1) … q(z_S) · gradient."""
    estimator, value_of = ESTIMATORS[name]
    configured = configurations(model)
    count = len(next(iter(configured.values())))
    terms = model(x.expand(count, *x.shape), configured, given)
    value, log_posterior = value_of(terms), log_q(terms)
    chosen = torch.tensor(list(itertools.product(range(count), repeat=samples))).T
    probability = log_posterior[chosen].sum(0).exp().detach()
    leaves = [tensor[chosen].detach().requires_grad_() for tensor in (value, log_posterior)]
    # A tuple is an image to the estimator, which takes their mean: undo it and weight each with its probability.
    slopes = [g * probability * chosen.shape[1] for g in torch.autograd.grad(estimator(*leaves), leaves)]
    return gradient_of(model, (slopes[0] * value[chosen] + slopes[1] * log_posterior[chosen]).sum())


@pytest.mark.parametrize(
    ("wiring", "variables", "samples"),
    [*[(wiring, (1, 1) if wiring == "biva" else (2, 1), 2) for wiring in WIRINGS], ("skip_lvae", (1, 1), 3),
     ("skip_vae", (1, 1), 3), ("vae", (1,), 4)],
)  # fmt: skip
@every_score_estimator
def test_expected_gradient_is_exact(name, wiring, variables, samples):
    model, x = tiny(wiring, variables)
    exact = gradient_of(model, enumerate_exactly(model, x).bound(samples if name == "vimco" else 1))
    got = expected_gradient(model, x, name, samples)
    assert (got - exact).norm() < 1e-8 * exact.norm()


def values_and_log_q(samples=4, images=3, scale=3.0, shift=-80.0):
    random = torch.Generator().manual_seed(6)
    value = shift + scale * torch.randn(samples, images, generator=random).double()
    return value.requires_grad_(), torch.randn(samples, images, generator=random).double().requires_grad_()


def test_rloo_is_the_mean_with_the_baseline_of_the_others():
    value, log_posterior = values_and_log_q()
    result = rloo(value, log_posterior)
    assert result.item() == pytest.approx(value.mean().item(), rel=1e-14)
    direct, score = torch.autograd.grad(result, (value, log_posterior))
    torch.testing.assert_close(direct, torch.full_like(value, 1 / 12))
    for s, b in itertools.product(range(4), range(3)):
        others = sum(value[j, b].item() for j in range(4) if j != s) / 3
        assert score[s, b].item() == pytest.approx((value[s, b].item() - others) / 12)


def test_vimco_is_the_bound_with_the_geometric_mean_for_its_own_weight():
    value, log_posterior = values_and_log_q(shift=0.0)
    result = vimco(value, log_posterior)
    weights = value.detach().exp()
    assert result.item() == pytest.approx(weights.mean(0).log().mean().item(), rel=1e-12)
    direct, score = torch.autograd.grad(result, (value, log_posterior))
    torch.testing.assert_close(direct, weights / weights.sum(0) / 3)
    for s, b in itertools.product(range(4), range(3)):
        others = [weights[j, b].item() for j in range(4) if j != s]
        without = (sum(others) + math.prod(others) ** (1 / 3)) / 4
        assert score[s, b].item() == pytest.approx((weights[:, b].mean().log().item() - math.log(without)) / 3)


@every_score_estimator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiny_and_scattered_weights_are_finite(name, dtype):
    """Weights of e^−1000, and samples hundreds of nats apart; a shift of all weights does not change the signal."""
    for shift, spread in ((-80.0, 0.0), (-1000.0, 3.0), (-1000.0, 500.0), (500.0, 500.0)):
        row = torch.linspace(0, 1, 5, dtype=dtype)
        value = (shift + spread * torch.stack([row, row.flip(0), row.roll(2)], 1)).requires_grad_()
        log_posterior = torch.full_like(value, -30.0).requires_grad_()
        result = ESTIMATORS[name][0](value, log_posterior)
        gradients = torch.autograd.grad(result, (value, log_posterior))
        assert result.isfinite()
        assert all(g.isfinite().all() for g in gradients)
        moved = ESTIMATORS[name][0](value - shift, log_posterior)
        torch.testing.assert_close(gradients[1], torch.autograd.grad(moved, log_posterior)[0], rtol=1e-3, atol=1e-4)
        assert result.item() == pytest.approx(moved.item() + shift, rel=1e-5)


@every_score_estimator
def test_one_sample_is_refused(name):
    estimator = ESTIMATORS[name][0]
    with pytest.raises(ValueError, match="at least 2 samples"):
        estimator(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        estimator(torch.zeros(2, 3), torch.zeros(2, 4))


def test_log_q_is_that_of_the_enumeration():
    model, x = tiny("biva", (1, 1))
    exact = enumerate_exactly(model, x)
    got = log_q(exact.terms)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, exact.log_posterior)


@every_score_estimator
def test_normal_layers_have_the_gradient_of_their_path_alone(name):
    model = build(small_config("skip_lvae", 2, latent="normal"), seed=1, contrast=1.5)
    x, noise = some_images(4), model.hard_noise(source(4))
    estimator, value_of = ESTIMATORS[name]

    def path(value, log_posterior):
        return value.mean() if name == "rloo" else (value.logsumexp(0) - math.log(2)).mean()

    found = []
    for objective in (estimator, path):
        terms = model(x, noise, independent)
        found.append(gradient_of(model, objective(value_of(terms).view(2, 2), log_q(terms).view(2, 2))))
    assert found[1].norm() > 0.1
    torch.testing.assert_close(*found)


def test_log_q_of_normal_layers_has_its_value():
    model = build(small_config("skip_lvae", 2, latent="normal"))
    terms = model(some_images(4), model.hard_noise(source(4)), independent)
    expected = torch.stack([layer.q.log_prob(layer.draw.hard) for layer in terms.layers]).sum(0)
    torch.testing.assert_close(log_q(terms), expected.detach())
