"""The laws of q and p against `torch.distributions` in float64: values and gradients, for arbitrary sizes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hdvae.latents.distributions import Categorical, Draw, Normal

SIZES = {"batch": st.integers(1, 4), "variables": st.integers(1, 4), "classes": st.integers(1, 5)}
KINDS = ["plain", "factored", "normal"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def random(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits_of(kind, seed, batch, variables, classes):
    """The raw parameters of a random law, as leaves."""
    shape = (batch, variables) if kind == "normal" else (batch, variables, classes)
    count = 1 if kind == "plain" else 2
    return [random(10 * seed + part, *shape, scale=0.7).requires_grad_() for part in range(count)]


def law_of(kind, raw):
    return Normal(*raw) if kind == "normal" else Categorical(raw)


def reference_of(kind, raw):
    """The same law by torch: factored keys by the explicit logits of all M² classes."""
    if kind == "normal":
        return torch.distributions.Normal(raw[0], raw[1].exp())
    logits = raw[0] if kind == "plain" else (raw[0].unsqueeze(-1) + raw[1].unsqueeze(-2)).flatten(-2)
    return torch.distributions.Categorical(logits=logits)


def hard_of(kind, seed, batch, variables, classes):
    if kind == "normal":
        return random(seed, batch, variables)
    count = classes if kind == "plain" else classes**2
    return torch.randint(0, count, (batch, variables), generator=torch.Generator().manual_seed(seed))


def assert_equal_with_gradients(raw, one, other):
    """Two values (B,), and their gradients in the raw parameters."""
    torch.testing.assert_close(one, other)
    weights = torch.arange(1.0, len(one) + 1, dtype=torch.float64)
    got = torch.autograd.grad((one * weights).sum(), raw, allow_unused=True, materialize_grads=True)
    want = torch.autograd.grad((other * weights).sum(), raw, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(got, want)


@every_kind
@given(seed=st.integers(0, 99), **SIZES)
def test_log_prob(kind, seed, batch, variables, classes):
    raw, hard = (make(kind, seed, batch, variables, classes) for make in (logits_of, hard_of))
    value = law_of(kind, raw).log_prob(hard)
    assert value.shape == (batch,)
    assert_equal_with_gradients(raw, value, reference_of(kind, raw).log_prob(hard).sum(1))


@every_kind
@given(seed=st.integers(0, 99), **SIZES)
def test_kl(kind, seed, batch, variables, classes):
    q, p = logits_of(kind, seed, batch, variables, classes), logits_of(kind, seed + 1, batch, variables, classes)
    value = law_of(kind, q).kl(law_of(kind, p))
    reference = torch.distributions.kl_divergence(reference_of(kind, q), reference_of(kind, p)).sum(1)
    assert value.shape == (batch,)
    assert_equal_with_gradients([*q, *p], value, reference)


@every_kind
@given(seed=st.integers(0, 99), **SIZES)
def test_entropy(kind, seed, batch, variables, classes):
    raw = logits_of(kind, seed, batch, variables, classes)
    value = law_of(kind, raw).entropy()
    assert value.shape == (batch,)
    assert_equal_with_gradients(raw, value, reference_of(kind, raw).entropy().sum(1))


@every_kind
def test_kl_is_not_symmetric_and_vanishes_on_itself(kind):
    q, p = (law_of(kind, logits_of(kind, seed, 3, 2, 4)) for seed in (1, 2))
    torch.testing.assert_close(q.kl(q), torch.zeros(3, dtype=torch.float64))
    assert (q.kl(p) > 0).all()
    assert (q.kl(p) - p.kl(q)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["plain", "factored"])
def test_divergences_of_categoricals_are_sums_over_their_classes(kind):
    hard = torch.arange(3 if kind == "plain" else 9).unsqueeze(1)
    q, p = (law_of(kind, logits_of(kind, seed, 1, 1, 3)) for seed in (1, 2))
    each_q, each_p = (
        Categorical([part.expand(len(hard), 1, 3) for part in law.parts]).log_prob(hard) for law in (q, p)
    )
    assert each_q.exp().sum().item() == pytest.approx(1)
    assert (each_q.exp() * (each_q - each_p)).sum().item() == pytest.approx(q.kl(p).item())
    assert -(each_q.exp() * each_q).sum().item() == pytest.approx(q.entropy().item())


def test_divergences_of_normals_are_means_over_samples():
    torch.manual_seed(0)
    q, p = (law_of("normal", [part.detach() for part in logits_of("normal", seed, 1, 1, 0)]) for seed in (1, 2))
    hard = q.mean + q.log_scale.exp() * torch.randn(40_000, 1, dtype=torch.float64)
    ratio = q.log_prob(hard) - p.log_prob(hard)
    assert ratio.mean().item() == pytest.approx(q.kl(p).item(), abs=4 * ratio.std().item() / 200)
    assert -q.log_prob(hard).mean().item() == pytest.approx(
        q.entropy().item(), abs=4 * q.log_prob(hard).std().item() / 200
    )


# --- Factored keys ------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), **SIZES)
def test_factored_law_is_the_product_of_its_parts(seed, batch, variables, classes):
    """KL(K) = KL(√K) + KL(√K) exactly, and so for the entropy."""
    q, p = (law_of("factored", logits_of("factored", s, batch, variables, classes)) for s in (seed, seed + 1))
    joint_q, joint_p = Categorical([q.joint()]), Categorical([p.joint()])
    parts = [Categorical([a]).kl(Categorical([b])) for a, b in zip(q.parts, p.parts, strict=True)]
    torch.testing.assert_close(joint_q.kl(joint_p), parts[0] + parts[1])
    torch.testing.assert_close(q.kl(p), parts[0] + parts[1])
    torch.testing.assert_close(q.entropy(), joint_q.entropy())


@given(seed=st.integers(0, 99), **SIZES)
def test_joint_is_normalised_and_in_the_order_of_split(seed, batch, variables, classes):
    law = law_of("factored", logits_of("factored", seed, batch, variables, classes))
    joint = law.joint()
    assert joint.shape == (batch, variables, classes**2)
    torch.testing.assert_close(joint.logsumexp(-1), torch.zeros(batch, variables, dtype=torch.float64))
    hard = hard_of("factored", seed, batch, variables, classes)
    torch.testing.assert_close(joint.gather(-1, hard.unsqueeze(-1)).sum((1, 2)), law.log_prob(hard))
    a, b = law.split(hard)
    assert torch.equal(a * classes + b, hard)
    assert a.max() < classes
    assert b.max() < classes


@pytest.mark.parametrize("kind", ["plain", "factored"])
@given(seed=st.integers(0, 99), **SIZES)
def test_eq_15_by_marginals_is_the_dense_sum(kind, seed, batch, variables, classes):
    """Value and gradient, in the logits and in z̃."""
    raw = logits_of(kind, seed, batch, variables, classes)
    count = classes if kind == "plain" else classes**2
    soft = random(seed + 7, batch, variables, count).softmax(-1).requires_grad_()
    law = law_of(kind, raw)
    value = law.expected_log_prob(Draw(hard=soft.argmax(-1), read=soft.flatten(1), soft=soft))
    dense = (soft * reference_of(kind, raw).logits.log_softmax(-1)).sum((1, 2))
    assert value.shape == (batch,)
    assert_equal_with_gradients([*raw, soft], value, dense)


def test_marginals_are_those_of_the_two_key_parts():
    """All of the mass on class (2, 0) of 3 × 3, then some on (1, 2)."""
    law = law_of("factored", logits_of("factored", 0, 1, 1, 3))
    soft = torch.zeros(1, 1, 9, dtype=torch.float64)
    soft[..., 6], soft[..., 5] = 0.75, 0.25
    a, b = law.marginals(soft)
    assert a.flatten().tolist() == [0, 0.25, 0.75]
    assert b.flatten().tolist() == [0.75, 0, 0.25]


@every_kind
def test_eq_15_of_a_hard_draw_is_log_prob(kind):
    raw, hard = (make(kind, 3, 2, 3, 4) for make in (logits_of, hard_of))
    law = law_of(kind, raw)
    torch.testing.assert_close(law.expected_log_prob(Draw(hard=hard, read=hard.double())), law.log_prob(hard))


def test_eq_15_is_biased_and_the_bias_goes_with_the_temperature():
    """E Σ z̃ (log q − log p) against KL: below it when hot, and right when cold; the hard terms are always right."""
    draws = 20_000
    q, p = (law_of("plain", logits_of("plain", seed, 1, 1, 5)) for seed in (1, 2))
    q, p = (Categorical([4 * law.parts[0].detach()]) for law in (q, p))
    q, p = (Categorical([part.expand(draws, 1, 5) for part in law.parts]) for law in (q, p))
    gumbel = (
        -torch.empty(draws, 1, 5, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0)).log()
    )
    kl, biases = q.kl(p)[0].item(), {}
    for tau in (0.8, 0.3, 0.01):
        soft = ((q.joint() + gumbel) / tau).softmax(-1)
        draw = Draw(hard=soft.argmax(-1), read=soft.flatten(1), soft=soft)
        relaxed = q.expected_log_prob(draw) - p.expected_log_prob(draw)
        hard = q.log_prob(draw.hard) - p.log_prob(draw.hard)
        error = hard.std().item() / math.sqrt(draws)
        assert hard.mean().item() == pytest.approx(kl, abs=4 * error)
        biases[tau] = (kl - relaxed.mean().item()) / error
    assert biases[0.8] > 20
    assert biases[0.8] > biases[0.3] > biases[0.01]
    assert abs(biases[0.01]) < 4


@given(classes=st.integers(1, 8), seed=st.integers(0, 99), scale=st.floats(0, 30))
def test_a_relaxed_variable_is_at_most_so_far_from_its_hard_one(classes, seed, scale):
    """Sup ‖z̃ − H(z̃)‖₂ = √(1 − 1/K), at the middle of the simplex."""
    soft = random(seed, 20, classes, scale=scale).softmax(-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), classes)
    bound = math.sqrt(1 - 1 / classes)
    assert (soft - hard).norm(dim=-1).max() <= bound + 1e-12
    middle = torch.full((classes,), 1 / classes, dtype=torch.float64)
    assert (middle - torch.eye(classes)[0]).norm().item() == pytest.approx(bound)


# --- Numerics -----------------------------------------------------------------------------------------


def test_extreme_logits_stay_finite_in_float32():
    raw = [torch.tensor([[[1000.0, -1000.0, 0.0]]], requires_grad=True)]
    q, p = Categorical(raw), Categorical([-raw[0].detach()])
    values = torch.stack([q.kl(p), q.entropy(), q.log_prob(torch.tensor([[1]]))])
    assert torch.isfinite(values).all()
    (gradient,) = torch.autograd.grad(values.sum(), raw)
    assert torch.isfinite(gradient).all()
    assert q.kl(p).item() == pytest.approx(2000)


def test_logits_are_normalised_and_shifts_do_not_matter():
    raw = logits_of("factored", 5, 2, 3, 4)
    one, other = Categorical(raw), Categorical([raw[0] + 3.0, raw[1] - 11.0])
    for part in (*one.parts, *other.parts):
        torch.testing.assert_close(part.logsumexp(-1), torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(one.joint(), other.joint())
