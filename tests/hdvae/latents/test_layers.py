"""One behavioural suite over all stochastic layers, then what is special to memories and to normals."""

import math

import pytest
import torch

from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.latents.distributions import Categorical
from hdvae.latents.layers import LOG_SCALE_BOUND, stochastic_layer
from hdvae.randomness.noise import NoiseSource
from tests.hdvae.oracle import assert_law, assert_mean, source

VARIABLES = 2
KINDS = ["factored", "plain", "normal", "race", "plain race", "shared race"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_memory = pytest.mark.parametrize("kind", ["factored", "plain"])


def make(kind, classes=None, variables=VARIABLES, seed=0):
    classes = classes or (5 if "plain" in kind else 9)
    settings = {"latent": "normal"} if kind == "normal" else {"keys": "plain" if "plain" in kind else "factored"}
    if "race" in kind:
        settings |= {"reads": "race", "race": {"draws": 20, "arrivals": 12}, "shared_values": "shared" in kind}
    config = ModelConfig(
        **settings, key_size=3, value_size=4, layers=(LayerConfig(variables=variables, classes=classes),)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stochastic_layer(config.layers[0], config).double()


def raw_of(layer, rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, layer.variables * layer.parameters_per_variable, generator=generator).double()


def law_of(layer, rows=6, same=False):
    """The law of random parameters, the same ones in every row if asked."""
    return layer.distribution(raw_of(layer, 1).expand(rows, -1) if same else raw_of(layer, rows))


# --- Every layer --------------------------------------------------------------------------------------


@every_kind
def test_shapes(kind):
    layer, law = make(kind), law_of(make(kind))
    noise = layer.noise(source(6))
    for draw in (
        layer.relax(law, noise, 0.5),
        layer.harden(law, noise),
        layer.sample(law, layer.hard_noise(source(6))),
        layer.at(layer.harden(law, noise).hard),
    ):
        assert draw.hard.shape == (6, VARIABLES)
        assert draw.read.shape == (6, layer.read_size)
        assert draw.read.dtype == torch.float64
        for value in (law.log_prob(draw.hard), law.expected_log_prob(draw), law.kl(law), law.entropy()):
            assert value.shape == (6,)


@every_kind
def test_relaxed_and_hard_draws_share_their_noise(kind):
    """H(z̃) is the hard sample on the same noise, at any temperature; other noise gives another sample."""
    layer = make(kind)
    law, noise = law_of(layer, 200), layer.noise(source(200))
    for tau in (0.1, 1.0, 5.0):
        assert torch.equal(layer.relax(law, noise, tau).hard, layer.harden(law, noise).hard)
    other = layer.harden(law, layer.noise(source(200, seed=1)))
    assert not torch.equal(other.hard, layer.harden(law, noise).hard)


@every_kind
def test_relaxed_reads_tend_to_hard_ones(kind):
    layer = make(kind)
    law, noise = law_of(layer, 50), layer.noise(source(50))
    torch.testing.assert_close(layer.relax(law, noise, 1e-7).read, layer.harden(law, noise).read)


@every_kind
def test_hard_draws_read_what_at_reads(kind):
    layer = make(kind)
    law = law_of(layer, 20)
    for draw in (layer.harden(law, layer.noise(source(20))), layer.sample(law, layer.hard_noise(source(20)))):
        assert draw.soft is None
        assert torch.equal(layer.at(draw.hard).read, draw.read)
        assert torch.equal(layer.at(draw.hard).hard, draw.hard)


@every_kind
@pytest.mark.parametrize("way", ["harden", "sample", "relax"])
def test_samples_follow_their_law(kind, way):
    """Each variable's frequencies against its own probabilities, and the mean log-probability against −entropy."""
    rows = 20_000
    layer = make(kind)
    law = law_of(layer, rows, same=True)
    if way == "sample":
        hard = layer.sample(law, layer.hard_noise(source(rows))).hard
    else:
        noise = layer.noise(source(rows))
        hard = (layer.harden(law, noise) if way == "harden" else layer.relax(law, noise, 0.7)).hard
    assert_mean(law.log_prob(hard), -law.entropy()[0].item())
    if kind == "normal":
        standard = (hard - law.mean) / law.log_scale.exp()
        for n in range(VARIABLES):
            assert_mean(standard[:, n], 0.0)
            assert_mean(standard[:, n].square(), 1.0)
        assert_mean(standard.prod(1), 0.0)
        return
    joint = law.joint()[0].exp()
    assert joint.max() > 2 * joint.min()
    for n in range(VARIABLES):
        assert_law(hard[:, n], joint[n])
    pairs = hard[:, 0] * layer.classes + hard[:, 1]
    assert_law(pairs, (joint[0].unsqueeze(1) * joint[1]).flatten())


@every_kind
def test_pathwise_gradient_reaches_the_parameters(kind):
    """Of the relaxed read, not of `hard` for classes; the values of a memory have one through the read."""
    layer = make(kind)
    raw = (0.3 * raw_of(layer, 4)).requires_grad_()
    draw = layer.relax(layer.distribution(raw), layer.noise(source(4)), 0.7)
    draw.read.square().sum().backward()
    assert (raw.grad != 0).all()
    assert all((parameter.grad.to_dense() != 0).any() for parameter in layer.parameters())


@every_kind
def test_one_image_does_not_touch_another(kind):
    layer = make(kind)
    raw, noise = raw_of(layer, 5), layer.noise(source(5))
    whole, part = layer.relax(layer.distribution(raw), noise, 0.5), [3, 1]
    alone = layer.relax(layer.distribution(raw[part]), noise[part], 0.5)
    torch.testing.assert_close(alone.read, whole.read[part])


# --- Memories -----------------------------------------------------------------------------------------


@every_memory
def test_logits_are_queries_times_keys(kind):
    """Eq. 2 by hand: log π_k = Q·k_k + c, where the key of class (a, b) is [k_a; k'_b]."""
    layer = make(kind)
    raw = raw_of(layer, 3)
    expected = torch.empty(3, VARIABLES, layer.classes, dtype=torch.float64)
    queries = raw.view(3, VARIABLES, -1)
    for n in range(VARIABLES):
        for k in range(layer.classes):
            parts = [k] if kind == "plain" else [k // 3, k % 3]
            key = torch.cat([layer.keys_PNMQ[p, n, part] for p, part in enumerate(parts)])
            expected[:, n, k] = queries[:, n] @ key
    torch.testing.assert_close(layer.distribution(raw).joint(), expected.log_softmax(-1))


@every_memory
def test_relaxed_weights_are_eq_4(kind):
    layer = make(kind)
    law, noise = law_of(layer, 5), layer.noise(source(5))
    draw = layer.relax(law, noise, 0.4)
    naive = ((law.joint() + noise) / 0.4).exp()
    torch.testing.assert_close(draw.soft, naive / naive.sum(-1, keepdim=True))
    torch.testing.assert_close(draw.soft.sum(-1), torch.ones(5, VARIABLES, dtype=torch.float64))
    assert (draw.soft >= 0).all()
    assert torch.equal(draw.soft.argmax(-1), draw.hard)
    hotter = layer.relax(law, noise, 4.0)
    assert (hotter.soft.max(-1).values < draw.soft.max(-1).values).all()


@every_memory
def test_reads_are_sums_over_each_variables_own_values(kind):
    layer = make(kind)
    law, noise = law_of(layer, 5), layer.noise(source(5))
    relaxed, hard = layer.relax(law, noise, 0.8), layer.harden(law, noise)
    for b in range(5):
        for n in range(VARIABLES):
            values, place = layer.values_NKD[n], slice(4 * n, 4 * n + 4)
            torch.testing.assert_close(relaxed.read[b, place], relaxed.soft[b, n] @ values)
            torch.testing.assert_close(hard.read[b, place], values[hard.hard[b, n]])


@every_memory
def test_every_class_can_be_read(kind):
    layer = make(kind)
    hard = torch.arange(layer.classes).unsqueeze(1).expand(-1, VARIABLES)
    read = layer.at(hard).read.view(layer.classes, VARIABLES, 4)
    torch.testing.assert_close(read, layer.values_NKD.transpose(0, 1))


@torch.no_grad()
def test_relaxed_factored_variable_is_the_joint_one():
    """The Concrete sample of M² classes is no product of two Concrete samples, though their argmax laws agree."""
    rows, layer = 20_000, make("factored", variables=1)
    law = law_of(layer, rows, same=True)
    soft = layer.relax(law, layer.noise(source(rows)), 0.5).soft[:, 0]
    a, b = (((part + source(rows, seed=s).gumbel(1, 3)) / 0.5).softmax(-1)[:, 0] for s, part in enumerate(law.parts, 1))
    product = (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)
    assert_law(soft.argmax(1), law.joint()[0, 0].exp())
    assert_law(product.argmax(1), law.joint()[0, 0].exp())
    dense = ((law.joint()[:, 0] + source(rows, seed=3).gumbel(9)) / 0.5).softmax(-1)
    errors = 4 * math.sqrt(2) * soft.max(1).values.std().item() / math.sqrt(rows)
    assert soft.max(1).values.mean().item() == pytest.approx(dense.max(1).values.mean().item(), abs=errors)
    assert soft.max(1).values.mean() - product.max(1).values.mean() > 5 * errors


def test_hard_noise_of_factored_keys_is_small():
    layer = make("factored", classes=49)
    assert layer.noise(source(3)).shape == (3, VARIABLES, 49)
    assert layer.hard_noise(source(3)).shape == (3, VARIABLES, 2, 7)


def test_memories_are_finite_in_float32_when_cold_and_large():
    """K = 4096 at τ = 0.01, with large logits: reads and gradients."""
    layer = make("factored", classes=4096).float()
    raw = (30 * raw_of(layer, 4).float()).requires_grad_()
    noise = layer.noise(NoiseSource.at(torch.device("cpu"), torch.float32, 4, seed=0, purpose="test", step=0))
    draw = layer.relax(layer.distribution(raw), noise, 0.01)
    (draw.read.sum() + layer.distribution(raw).expected_log_prob(draw).sum()).backward()
    assert torch.isfinite(draw.read).all()
    assert torch.isfinite(raw.grad).all()


def test_sample_and_harden_refuse_a_foreign_law():
    with pytest.raises(AssertionError):
        make("factored").harden(law_of(make("normal")), torch.zeros(6, VARIABLES))
    with pytest.raises(AssertionError):
        make("normal").harden(law_of(make("plain")), torch.zeros(6, VARIABLES))
    assert isinstance(law_of(make("plain")), Categorical)


# --- Normals ------------------------------------------------------------------------------------------


def test_normal_parameters_are_means_then_log_scales():
    layer = make("normal")
    raw = torch.tensor([[1.0, 2.0, 0.3, -0.4]], dtype=torch.float64)
    law = layer.distribution(raw)
    assert law.mean.tolist() == [[1, 2]]
    torch.testing.assert_close(law.log_scale, raw[:, 2:], rtol=2e-2, atol=0)
    noise = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(layer.harden(law, noise).hard, law.mean + law.log_scale.exp() * noise)


def test_normal_scale_may_shrink_far_below_one_but_not_vanish():
    layer = make("normal")
    law = layer.distribution(torch.tensor([[0.0, 0.0, -7.0, -1e6]], dtype=torch.float64))
    assert law.log_scale[0, 0] < -5
    assert law.log_scale.abs().max() <= LOG_SCALE_BOUND
    assert torch.isfinite(law.log_prob(torch.ones(1, 2, dtype=torch.float64))).all()


def test_chains_of_normal_variables_coincide():
    layer = make("normal")
    law, noise = law_of(layer), layer.noise(source(6))
    for draw in (layer.harden(law, noise), layer.sample(law, noise), layer.relax(law, noise, 0.1)):
        assert torch.equal(draw.read, layer.relax(law, noise, 5.0).read)
        assert torch.equal(draw.read, draw.hard)
        assert draw.soft is None
