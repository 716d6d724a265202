"""The gradient of the training objective against finite differences, and what free bits let through."""

import pytest
import torch

from hdvae.latents.distributions import Categorical, Draw, Normal
from hdvae.network.samplers import relaxed
from hdvae.network.terms import LayerTerms, Terms
from hdvae.network.wiring import WIRINGS, Node
from hdvae.objectives.objectives import log_weight, surrogate_objective, training_kl
from tests.hdvae.oracle import CASES, build, small_config, some_images, source

NO_FREEBITS = -1e9
STEP = 1e-5
TAU = 0.7
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
every_latent = pytest.mark.parametrize("latent", ["categorical", "normal"])


def naive_kl(layer):
    """The expression whose gradient training takes, written densely: KL, or −H(q) − Σ z̃ log p (eq. 15)."""
    if isinstance(layer.q, Normal):
        q = torch.distributions.Normal(layer.q.mean, layer.q.log_scale.exp())
        p = torch.distributions.Normal(layer.p.mean, layer.p.log_scale.exp())
        if layer.finite_kl:
            return torch.distributions.kl_divergence(q, p).sum(1)
        return (-q.entropy() - p.log_prob(layer.draw.hard)).sum(1)
    q, p = layer.q.joint(), layer.p.joint()
    if layer.finite_kl:
        return (q.exp() * (q - p)).sum((1, 2))
    return (q.exp() * q - layer.draw.soft * p).sum((1, 2))


def naive_objective(terms, freebits):
    kl = [naive_kl(layer).mean() for layer in terms.layers]
    return terms.log_px.mean() - sum(k if k > freebits else torch.full_like(k, freebits) for k in kl)


def assert_gradients(model, objective, naive):
    """Each parameter's gradient of `objective` along a random direction is the central difference of `naive`."""
    model.zero_grad()
    objective().backward()
    random = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        with torch.no_grad():
            parameter.add_(STEP * direction)
            above = naive()
            parameter.sub_(2 * STEP * direction)
            below = naive()
            parameter.add_(STEP * direction)
        difference = ((above - below) / (2 * STEP)).item()
        gradient = 0.0 if parameter.grad is None else (parameter.grad * direction).sum().item()
        assert gradient == pytest.approx(difference, rel=1e-5, abs=1e-7), name


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model, one, other):
    one, other = gradients(model, one), gradients(model, other)
    for name, parameter in model.named_parameters():
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(one.get(name, zero), other.get(name, zero), msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(("wiring", "levels"), [case for case in CASES if case[1] > 1] + [("vae", 1)])
@every_latent
def test_gradient_is_that_of_finite_differences(wiring, levels, latent):
    model = build(small_config(wiring, levels, latent=latent), seed=levels, contrast=1.5)
    x, noise = some_images(3), model.noise(source(3, seed=4))
    assert_gradients(
        model,
        lambda: surrogate_objective(model(x, noise, relaxed(TAU)), NO_FREEBITS).value,
        lambda: naive_objective(model(x, noise, relaxed(TAU)), NO_FREEBITS),
    )


@pytest.mark.parametrize(("wiring", "keys", "blocks"), [("biva", "plain", "dense"), ("skip_vae", "factored", "conv")])
def test_gradient_with_plain_keys_and_with_convolutions(wiring, keys, blocks):
    model = build(small_config(wiring, 2, keys=keys, blocks=blocks, width=2), seed=1, contrast=1.5)
    x, noise = some_images(2), model.noise(source(2, seed=4))
    assert_gradients(
        model,
        lambda: surrogate_objective(model(x, noise, relaxed(TAU)), NO_FREEBITS).value,
        lambda: naive_objective(model(x, noise, relaxed(TAU)), NO_FREEBITS),
    )


@every_wiring
def test_gradient_with_some_layers_free(wiring):
    """λ between the divergences of the layers: some are free, some are not."""
    model = build(small_config(wiring, 2), seed=2, contrast=2.0)
    x, noise = some_images(3), model.noise(source(3, seed=4))
    kl = sorted(k.item() for k in surrogate_objective(model(x, noise, relaxed(TAU)), 0.0).kl)
    freebits = (kl[0] + kl[-1]) / 2
    assert_gradients(
        model,
        lambda: surrogate_objective(model(x, noise, relaxed(TAU)), freebits).value,
        lambda: naive_objective(model(x, noise, relaxed(TAU)), freebits),
    )


@every_wiring
@every_latent
def test_value_is_that_of_eq_14(wiring, latent):
    """Where log p is no finite sum its value is that of the hard class, whatever its gradient comes from."""
    model = build(small_config(wiring, 3, latent=latent), seed=1, contrast=1.5)
    x = some_images(4)
    terms = model(x, model.noise(source(4)), relaxed(TAU))
    for layer in terms.layers:
        hard_p = layer.p.log_prob(layer.draw.hard)
        expected = layer.q.kl(layer.p) if layer.finite_kl else -layer.q.entropy() - hard_p
        torch.testing.assert_close(training_kl(layer), expected)
        if latent == "categorical" and not layer.finite_kl:
            assert (layer.p.expected_log_prob(layer.draw) - hard_p).abs().mean() > 1e-3
    objective = surrogate_objective(terms, NO_FREEBITS)
    torch.testing.assert_close(objective.value, objective.surrogate_elbo)
    torch.testing.assert_close(objective.log_px, terms.log_px.mean())
    assert len(objective.kl) == len(terms.layers)


def test_each_layers_divergence_reaches_its_own_encoder():
    """With the hard terms of eq. 14 it would not (theory: H has no gradient)."""
    model = build(small_config("vae", 1, dropout=0.0), contrast=1.5)
    x, noise = some_images(4), model.noise(source(4))
    (layer,) = model(x, noise, relaxed(TAU)).layers
    gradient = gradients(model, training_kl(layer).mean())
    assert any(name.startswith("levels.0.up") and g.abs().max() > 1e-4 for name, g in gradient.items())


# --- Free bits ----------------------------------------------------------------------------------------


@every_wiring
@every_latent
def test_a_free_layer_sends_no_gradient_to_its_divergence(wiring, latent):
    model = build(small_config(wiring, 2, latent=latent), seed=2, contrast=1.5)
    x, noise = some_images(4), model.noise(source(4))

    def terms():
        return model(x, noise, relaxed(TAU))

    kl = [k.item() for k in surrogate_objective(terms(), 0.0).kl]
    assert_same_gradients(model, surrogate_objective(terms(), max(kl) + 1).value, terms().log_px.mean())
    value = surrogate_objective(terms(), max(kl) + 1).value.item()
    assert value == pytest.approx(terms().log_px.mean().item() - len(kl) * (max(kl) + 1))
    largest = kl.index(max(kl))
    between = (sorted(kl)[-2] + sorted(kl)[-1]) / 2
    alone = terms()
    alone = alone.log_px.mean() - training_kl(alone.layers[largest]).mean()
    assert_same_gradients(model, surrogate_objective(terms(), between).value, alone)


def terms_with_divergences(kl):
    """One normal layer whose images have these divergences: means √(2 KL) against a standard normal."""
    q = Normal((2 * kl).sqrt().unsqueeze(1), torch.zeros(len(kl), 1, dtype=kl.dtype))
    p = Normal(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    layer = LayerTerms(Node(1, "down"), q, p, Draw(hard=q.mean, read=q.mean), finite_kl=True)
    return Terms(torch.zeros(len(kl), dtype=kl.dtype), [layer])


def test_free_bits_act_on_the_mean_over_the_batch():
    """Per image and per batch differ: mean(max(KL, 2)) > max(mean KL, 2) on a Gamma(2) sample."""
    kl = torch.distributions.Gamma(2.0, 1.0).sample((1000,)).double()
    kl *= 1.9 / kl.mean()
    objective = surrogate_objective(terms_with_divergences(kl), 2.0)
    assert objective.value.item() == pytest.approx(-2.0)
    assert kl.clamp(min=2.0).mean() > 2.4
    assert objective.kl[0].item() == pytest.approx(1.9)
    assert objective.surrogate_elbo.item() == pytest.approx(-1.9)
    assert surrogate_objective(terms_with_divergences(2 * kl), 2.0).value.item() == pytest.approx(-3.8)


def test_each_layer_has_free_bits_of_its_own():
    one, other = terms_with_divergences(torch.full((4,), 0.5)), terms_with_divergences(torch.full((4,), 3.0))
    both = Terms(torch.full((4,), -7.0), [*one.layers, *other.layers])
    assert surrogate_objective(both, 2.0).value.item() == pytest.approx(-7 - 2 - 3)
    assert log_weight(both).shape == (4,)


def test_the_objective_does_not_depend_on_the_batch_size():
    """Means over images, not sums: the same images twice give the same value."""
    model = build(small_config("skip_vae", 2), contrast=1.5)
    x, noise = some_images(3), model.noise(source(3))
    twice = {node: value.repeat(2, *[1] * (value.dim() - 1)) for node, value in noise.items()}
    once = surrogate_objective(model(x, noise, relaxed(TAU)), 0.1)
    double = surrogate_objective(model(x.repeat(2, 1, 1), twice, relaxed(TAU)), 0.1)
    torch.testing.assert_close(once.value, double.value)
    torch.testing.assert_close(once.surrogate_elbo, double.surrogate_elbo)


def test_straight_through_term_has_the_gradient_of_eq_15():
    """By hand for one variable: d/dlogits of log p is z̃ − softmax(logits), though the value is log p(H)."""
    logits = torch.tensor([[[0.3, -0.2, 0.9]]], dtype=torch.float64, requires_grad=True)
    soft = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64)
    q = Categorical([torch.full((1, 1, 3), 1 / 3, dtype=torch.float64).log()])
    draw = Draw(hard=torch.tensor([[1]]), read=soft.flatten(1), soft=soft)
    kl = training_kl(LayerTerms(Node(1, "up"), q, Categorical([logits]), draw, finite_kl=False))
    kl.backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - soft)
    assert kl.item() == pytest.approx(-q.entropy().item() - logits.log_softmax(-1)[0, 0, 1].item())
