"""Estimators with hard samples: forward against the hard chain, backward against enumeration."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import one_hot

from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.latents.distributions import Categorical
from hdvae.latents.layers import stochastic_layer
from hdvae.network.samplers import hard, relaxed
from hdvae.network.wiring import WIRINGS, Node
from hdvae.objectives.hard_forward import conditional_noise, conditional_scores, gumbel_rao, reinmax, straight_through
from hdvae.objectives.objectives import expected_log_weight, log_weight, surrogate_objective, training_kl
from tests.hdvae.oracle import assert_mean, build, small_config, some_images, source

TAU = 0.5
NODE = Node(1, "down")
NO_FREEBITS = -1e9
HARD_FORWARD = ["straight_through", "gumbel_rao", "reinmax"]
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
every_hard_forward = pytest.mark.parametrize("name", HARD_FORWARD)


def make_sampler(name, conditional, tau=TAU):
    if name == "gumbel_rao":
        return gumbel_rao(tau, conditional)
    return {"straight_through": straight_through, "reinmax": reinmax}[name](tau)


def sampler_of(name, model, rows, tau=TAU, draws=3):
    noise = conditional_noise(model, [source(rows, seed=100 + r) for r in range(draws)])
    return make_sampler(name, noise, tau)


def memory(classes=4, variables=1, keys="plain", seed=0):
    layers = (LayerConfig(variables=variables, classes=classes),)
    config = ModelConfig(keys=keys, key_size=3, value_size=4, layers=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stochastic_layer(config.layers[0], config).double()


def logits_of(rows, *shape, seed=1, scale=1.5):
    """The same random logits in every row, each row a leaf's own copy."""
    one = scale * torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)).double()
    return one.expand(rows, *shape).clone().requires_grad_()


def curved(read, power=2):
    """A function of the read that is a polynomial of degree `power`, (B, D) → (B,)."""
    random = torch.Generator().manual_seed(9)
    a, m = torch.randn(read.shape[1], generator=random).double(), torch.randn(2 * [read.shape[1]], generator=random)
    square = ((read @ m.double()) * read).sum(1)
    return read @ a + square + (read.pow(3).sum(1) if power == 3 else 0)


def gradient_of(model, value):
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


# --- Forward: the hard chain -----------------------------------------------------------------------


@every_wiring
@every_hard_forward
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_are_those_of_the_hard_chain_to_the_bit(wiring, name, dtype):
    model = build(small_config(wiring, 2), seed=1, contrast=1.5, memory=3.0).to(dtype)
    x, noise = some_images(20).to(dtype), model.noise(source(20, dtype=dtype))
    conditional = conditional_noise(model, [source(20, seed=r, dtype=dtype) for r in (5, 6)])
    expected = model(x, noise, hard)
    got = model(x, noise, make_sampler(name, conditional))
    assert torch.equal(got.log_px, expected.log_px)
    assert torch.equal(log_weight(got), log_weight(expected))
    assert torch.equal(expected_log_weight(got), expected_log_weight(expected))
    for one, other in zip(got.layers, expected.layers, strict=True):
        assert torch.equal(one.draw.hard, other.draw.hard)
        assert torch.equal(one.draw.read, other.draw.read)
        assert one.draw.read.dtype == dtype
        classes = model.layer(one.node).classes
        assert torch.equal(one.draw.soft, one_hot(one.draw.hard, classes).to(dtype))
        torch.testing.assert_close(one.p.expected_log_prob(one.draw), one.p.log_prob(one.draw.hard))
        torch.testing.assert_close(training_kl(one), training_kl(other))


@every_hard_forward
@pytest.mark.parametrize("keys", ["factored", "plain"])
def test_the_memory_has_the_gradient_of_the_slots_that_were_read(name, keys):
    layer = memory(4, variables=2, keys=keys)
    law = Categorical([logits_of(50, 2, 2, seed=s) for s in (1, 2)] if keys == "factored" else [logits_of(50, 2, 4)])
    noise, conditional = layer.noise(source(50)), {NODE: torch.stack([layer.noise(source(50, seed=7))])}
    draw = make_sampler(name, conditional)(NODE, layer, law, noise)
    (got,) = torch.autograd.grad(curved(draw.read).sum(), layer.values_NKD)
    (expected,) = torch.autograd.grad(curved(layer.harden(law, noise).read).sum(), layer.values_NKD)
    torch.testing.assert_close(got, expected)


@every_hard_forward
def test_each_node_has_its_own_temperature(name):
    model = build(small_config("skip_lvae", 2), seed=1, contrast=1.5)
    x, noise = some_images(5), model.noise(source(5))
    taus = {node: TAU * node.level for node in model.nodes}

    def by_hand(node, layer, law, noise):
        return sampler_of(name, model, 5, taus[node])(node, layer, law, noise)

    def gradient(sampler):
        return gradient_of(model, model(x, noise, sampler).log_px.sum())

    mapped = sampler_of(name, model, 5, {node: torch.tensor(tau).double() for node, tau in taus.items()})
    torch.testing.assert_close(gradient(mapped), gradient(by_hand))
    for tau in taus.values():
        difference = gradient(mapped) - gradient(sampler_of(name, model, 5, tau))
        assert difference.norm() > 1e-3 * gradient(mapped).norm()


@every_hard_forward
@every_wiring
def test_normal_layers_keep_their_reparametrised_sample(wiring, name):
    model = build(small_config(wiring, 2, latent="normal"), seed=1, contrast=1.5)
    x, noise = some_images(4), model.noise(source(4))
    gradients = []
    for sampler in (relaxed(TAU), sampler_of(name, model, 4)):
        value = surrogate_objective(model(x, noise, sampler), NO_FREEBITS).value
        gradients.append(gradient_of(model, value))
    assert torch.equal(*gradients)


# --- Straight-through ------------------------------------------------------------------------------


def test_straight_through_is_differentiated_as_the_relaxed_sample():
    """For a linear function of the read, whose slope does not depend on where it is taken."""
    layer, logits = memory(4, variables=2), logits_of(30, 2, 4)
    law, noise = Categorical([logits]), layer.noise(source(30))
    slope = torch.randn(layer.read_size, generator=torch.Generator().manual_seed(3)).double()
    reads = [straight_through(TAU)(NODE, layer, law, noise).read, layer.relax(law, noise, TAU).read]
    one, other = (torch.autograd.grad((read @ slope).sum(), logits, retain_graph=True)[0] for read in reads)
    torch.testing.assert_close(one, other)
    assert one.abs().max() > 1e-2


# --- Gumbel-Rao ------------------------------------------------------------------------------------


def test_conditional_draws_follow_the_law_of_perturbed_logits():
    """Given a sample of the law, their maximum is the sample's; over the sample they are independent Gumbels."""
    rows, log_pi = 20_000, logits_of(1, 4).detach().log_softmax(-1)
    noise, again = (source(rows, seed=s).gumbel(1, 4) for s in (1, 2))
    sample = one_hot((log_pi + noise).argmax(-1), 4).double()
    scores = conditional_scores(log_pi.expand(rows, 1, 4), sample, again.unsqueeze(0))[0]
    assert torch.equal(scores.argmax(-1), sample.argmax(-1))
    gumbel = (scores - log_pi).squeeze(1)
    for k in range(4):
        assert kstest(gumbel[:, k].numpy(), "gumbel_r").pvalue > 1e-3
    correlation = torch.corrcoef(gumbel.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(rows)


def test_conditional_draws_keep_the_sample_first_for_every_class():
    """Also for a class that is all but impossible, where the Gumbels must move far."""
    log_pi = torch.tensor([0.0, -3.0, -60.0, -300.0]).double().log_softmax(-1).expand(4, 1, 4)
    sample = torch.eye(4).double().unsqueeze(1)
    noise = torch.stack([source(4, seed=s).gumbel(1, 4) for s in range(500)])
    scores = conditional_scores(log_pi, sample, noise)
    assert scores.shape == (500, 4, 1, 4)
    assert torch.equal(scores.argmax(-1), sample.argmax(-1).expand(500, 4, 1))


def assert_same_mean_and_smaller_variance(better, worse, factor):
    """Gradients of independent rows (B, P): the same mean, and the first has `factor` of the variance at most."""
    for difference in (better - worse).T:
        assert_mean(difference, 0.0)
    assert better.var(0).sum() < factor * worse.var(0).sum()


@pytest.mark.parametrize(("tau", "factor"), [(0.2, 0.5), (1.0, 0.9)])
def test_gumbel_rao_has_the_mean_of_straight_through_and_less_variance(tau, factor):
    rows, layer = 20_000, memory(4)
    noise = layer.noise(source(rows))
    conditional = {NODE: torch.stack([layer.noise(source(rows, seed=10 + r)) for r in range(16)])}
    found = []
    for sampler in (gumbel_rao(tau, conditional), straight_through(tau)):
        logits = logits_of(rows, 1, 4)
        read = sampler(NODE, layer, Categorical([logits]), noise).read
        found.append(torch.autograd.grad(curved(read).sum(), logits)[0].flatten(1))
    assert_same_mean_and_smaller_variance(*found, factor)


@pytest.mark.parametrize("wiring", ["skip_lvae", "vae"])
def test_gumbel_rao_has_the_mean_of_straight_through_in_a_hierarchy(wiring):
    """Per-image gradients are those for the image itself, which reaches everything through the encoder."""
    rows, model = 4_000, build(small_config(wiring, 2), seed=1, contrast=1.5, memory=3.0)
    noise, image, found = model.noise(source(rows)), some_images(1), []
    for name in ("gumbel_rao", "straight_through"):
        x = image.expand(rows, *image.shape[1:]).clone().requires_grad_()
        value = surrogate_objective(model(x, noise, sampler_of(name, model, rows, 0.2, draws=8)), NO_FREEBITS).value
        found.append(torch.autograd.grad(rows * value, x)[0].flatten(1))
    assert_same_mean_and_smaller_variance(*found, 0.95)


def test_conditional_noise_stacks_the_noise_of_its_sources():
    model = build(small_config("biva", 2))
    stacked = conditional_noise(model, [source(5, seed=s) for s in (1, 2, 3)])
    assert list(stacked) == list(model.nodes)
    for draw, seed in enumerate((1, 2, 3)):
        for node, noise in model.noise(source(5, seed=seed)).items():
            assert torch.equal(stacked[node][draw], noise)


# --- ReinMax ---------------------------------------------------------------------------------------


def reinmax_transcribed(theta, sample, tau):
    """Algorithm 2 of the paper, line by line."""
    pi_0 = theta.softmax(-1)
    pi_1 = (sample + (theta / tau).softmax(-1)) / 2
    pi_1 = ((pi_1.log() - theta).detach() + theta).softmax(-1)
    pi_2 = 2 * pi_1 - pi_0 / 2
    return pi_2 - pi_2.detach() + sample


@pytest.mark.parametrize("tau", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("parts", [1, 2])
def test_reinmax_is_algorithm_2(tau, parts):
    """Also with factored keys, where θ is log π of the joint classes."""
    layer = memory(4, variables=2, keys="plain" if parts == 1 else "factored")
    leaves = [logits_of(30, 2, 4 // parts, seed=s) for s in range(parts)]
    law, noise = Categorical(leaves), layer.noise(source(30))
    draw = reinmax(tau)(NODE, layer, law, noise)
    sample = one_hot(layer.harden(law, noise).hard, 4).double()
    expected = layer.read(reinmax_transcribed(law.joint(), sample, tau))
    got = torch.autograd.grad(curved(draw.read).sum(), leaves, retain_graph=True)
    for one, other in zip(got, torch.autograd.grad(curved(expected).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)


def expected_gradient_of_one_variable(sampler, power, classes=3):
    """Of E f: the estimator's expectation over the K samples, and the exact one; (K,) each."""
    layer, logits = memory(classes), logits_of(1, 1, classes)
    law = Categorical([logits.expand(classes, 1, classes)])
    forced = 1e3 * torch.eye(classes).double().unsqueeze(1)
    probability = law.joint()[0, 0].exp()
    read = sampler(NODE, layer, law, forced).read
    exact = probability @ curved(layer.at(torch.arange(classes).unsqueeze(1)).read, power)
    estimate = probability.detach() @ curved(read, power)
    return [torch.autograd.grad(value, logits, retain_graph=True)[0].flatten() for value in (estimate, exact)]


@pytest.mark.parametrize("power", [2, 3])
def test_reinmax_is_exact_for_quadratic_functions_of_one_variable(power):
    """To second order: a cubic function shows the third."""
    got, exact = expected_gradient_of_one_variable(reinmax(1.0), power)
    assert exact.norm() > 0.1
    if power == 2:
        torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-12)
    else:
        assert (got - exact).norm() > 1e-2 * exact.norm()


def test_reinmax_at_another_temperature_is_not_exact_for_quadratic_functions():
    got, exact = expected_gradient_of_one_variable(reinmax(0.5), 2)
    assert (got - exact).norm() > 1e-2 * exact.norm()


# --- Peaked laws -----------------------------------------------------------------------------------


@every_hard_forward
@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("keys", ["factored", "plain"])
def test_peaked_laws_have_finite_gradients_in_single_precision(name, tau, keys):
    layer = memory(4, variables=2, keys=keys).float()
    parts = 2 if keys == "factored" else 1
    random = torch.Generator().manual_seed(2)
    leaves = [
        (60.0 * (2 * torch.randint(0, 2, (64, 2, 4 // parts), generator=random) - 1)).requires_grad_()
        for _ in range(parts)
    ]
    law = Categorical(leaves)
    noise = layer.noise(source(64, dtype=torch.float32))
    # Forced samples of every class, likely or not, as well as the law's own.
    noise[:32] += 1e3 * one_hot(torch.arange(32) % 4, 4).unsqueeze(1)
    conditional = {NODE: torch.stack([layer.noise(source(64, seed=r, dtype=torch.float32)) for r in range(20)])}
    draw = make_sampler(name, conditional, tau)(NODE, layer, law, noise)
    assert torch.equal(draw.hard, (law.joint() + noise).argmax(-1))
    value = draw.read.square().sum() + law.expected_log_prob(draw).sum()
    for gradient in torch.autograd.grad(value, leaves):
        assert gradient.isfinite().all()
    scores = conditional_scores(law.joint().detach(), draw.soft.detach(), conditional[NODE])
    assert scores.isfinite().all()
    first = scores.gather(-1, draw.hard.unsqueeze(-1).expand(20, -1, -1, -1))
    assert (first >= scores).all()
