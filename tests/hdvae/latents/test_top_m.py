"""Sampled top-m reads against dense samples: distribution, gradients and reads, and the bound of what is dropped."""

import math

import pytest
import torch

from hdvae.experiment.experiment import LayerConfig, ModelConfig, RaceConfig
from hdvae.latents import layers as layers_module
from hdvae.latents.distributions import Categorical
from hdvae.latents.exponential_integral import ExponentialIntegral
from hdvae.latents.layers import MemoryLayer, TopMLayer
from hdvae.latents.top_m import (
    REPEATED_SCORE,
    _arrival_times,
    _copies,
    _repeated,
    expected_drop,
    sample_top_m,
    split_draws,
)
from hdvae.randomness.noise import NoiseSource
from tests.hdvae.latents.laws import AUTO, ROWS, assert_same_mean, dense, expanded, law_of, uniform, whole
from tests.hdvae.oracle import CPU, source

# --- Against dense samples -------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(5,), (3, 3)])
def test_with_all_classes_seen_a_race_is_the_dense_sample(tau, shape):
    """Means, variances, every marginal and pair of classes, and what is left out, which is nothing."""
    law = expanded([part.detach() for part in law_of(shape)], ROWS)
    found = sample_top_m(law, uniform(ROWS, len(shape), 200), tau, 200, 0)
    soft, other = whole(found, law.classes), dense(law, tau)
    assert_same_mean(soft, other)
    assert_same_mean(soft.square(), other.square())
    products = torch.stack([soft[:, 0] * soft[:, k] for k in range(1, law.classes)], 1)
    others = torch.stack([other[:, 0] * other[:, k] for k in range(1, law.classes)], 1)
    assert_same_mean(products, others)
    assert found.dropped.mean() < 1e-3


@pytest.mark.parametrize("tau", [0.3, 0.8])
def test_gradients_are_those_of_the_dense_sample(tau):
    """Of a curved function of the read, in every logit, one row at a time, and in every value."""
    rows = 4000
    values = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gradients = []
    for raced in (True, False):
        leaves = [part.detach().expand(rows, 1, 3).clone().requires_grad_() for part in law_of((3, 3))]
        law, table = Categorical(leaves), values.clone().expand(rows, 9, 2).clone().requires_grad_()
        soft = whole(sample_top_m(law, uniform(rows, 2, 150), tau, 150, 0), 9) if raced else dense(law, tau)
        read = torch.einsum("bk,bkd->bd", soft, table)
        (read.prod(-1) + read.exp().sum(-1)).sum().backward()
        gradients.append(torch.cat([*(leaf.grad.flatten(1) for leaf in leaves), table.grad.flatten(1)], 1))
    assert gradients[0].abs().mean() > 1e-2
    assert_same_mean(*gradients)


def test_repeated_arrivals_are_merged():
    """A class counts at its first arrival: its weight is T^(−1/τ) of that, whatever follows."""
    law = expanded([part.detach() for part in law_of((2, 2))], 50)
    noise = uniform(50, 2, 20)
    found, times = sample_top_m(law, noise, 0.5, 20, 0), (-(-noise[:, 0, 0]).log1p()).cumsum(-1)
    for row in range(50):
        first = {}
        for slot, time in zip(found.slots[row, 0].tolist(), times[row].tolist(), strict=True):
            first.setdefault(slot, time)
        expected = torch.zeros(4, dtype=torch.float64)
        for slot, time in first.items():
            expected[slot] = time**-2
        torch.testing.assert_close(whole(found, 4)[row], expected / expected.sum())
        assert (found.scores[row, 0] > REPEATED_SCORE / 2).sum() == len(first)


def test_early_arrivals_are_precise():
    """The first arrivals of 10⁷ races, in single precision: an early one has a weight far above all others."""
    uniform = torch.tensor([2.0**-32, 3 * 2.0**-32, 1e-7, 1e-3, 0.5], dtype=torch.float64)
    found = _arrival_times(uniform.float()).double()
    torch.testing.assert_close(found, (-(-uniform).log1p()).cumsum(-1), rtol=3e-7, atol=0)


def test_the_first_arrival_is_the_largest_weight_and_more_draws_change_nothing_that_was_seen():
    law, noise = expanded(law_of((8, 8)), 100), uniform(100, 2, 64)
    long = sample_top_m(law, noise, 0.5, 64, 0)
    short = sample_top_m(law, noise, 0.5, 16, 0)
    assert torch.equal(long.scores.argmax(-1), torch.zeros(100, 1, dtype=torch.int64))
    assert torch.equal(long.slots[..., :16], short.slots)
    torch.testing.assert_close(long.scores[..., :16], short.scores)


@pytest.mark.parametrize("classes", [20, 512, 513, 10_000])
def test_repeats_and_copies_are_found_whichever_way(classes):
    """By a table of all classes, or by sorting."""
    slots = torch.randint(0, 20, (30, 2, 16), generator=torch.Generator().manual_seed(classes))
    repeated, copies = _repeated(slots, classes), _copies(slots, classes)
    for row, again, often in zip(slots.flatten(0, 1), repeated.flatten(0, 1), copies.flatten(0, 1), strict=True):
        listed = row.tolist()
        assert again.tolist() == [slot in listed[:i] for i, slot in enumerate(listed)]
        assert [often[i] for i in range(16) if not again[i]] == [
            listed.count(slot) for i, slot in enumerate(listed) if not again[i]
        ]


# --- The remaining classes -------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_bound_of_the_dropped_mass_is_never_below_the_mean(tau, scale):
    """Of a complete race: what its first 8 arrivals leave out, against the bound after 8 arrivals."""
    rows, draws = 4000, 512
    law = expanded([part.detach() for part in law_of((4, 4), scale=scale)], rows)
    noise = uniform(rows, 2, draws)
    every, bound = sample_top_m(law, noise, tau, draws, 0), sample_top_m(law, noise, tau, 8, 0).dropped.flatten()
    soft = every.scores.softmax(-1)[:, 0]
    dropped = soft[:, 8:].sum(-1) + every.dropped.flatten()  # in 512 draws a class may still be missing
    assert bound.mean() >= dropped.mean() - 3 * (bound - soft[:, 8:].sum(-1)).std() / math.sqrt(rows)
    assert (bound <= 1).all()
    if scale == 0.0 and tau > 0.1:  # equal classes: the bound is the expectation, up to Jensen's inequality
        assert bound.mean() < 1.25 * soft[:, 8:].sum(-1).mean() + 2e-3


@pytest.mark.parametrize("tau", [0.5, 0.8])
def test_tail_stands_for_what_comes_later(tau):
    """With few arrivals the marginals of 64 classes are those of the dense sample; without the tail they are not."""
    rows = 40_000
    law = expanded([part.detach() for part in law_of((8, 8))], rows)
    found = sample_top_m(law, uniform(rows, 2, 24), tau, 8, 16)
    soft, other = whole(found, 64), dense(law, tau)
    best = law.joint()[0, 0].argmax()
    error = ((soft.var(0) + other.var(0)) / rows).sqrt()
    assert ((soft.mean(0) - other.mean(0)).abs() < 4 * error + 0.02 * other.mean(0)).all()
    alone = whole(sample_top_m(law, uniform(rows, 2, 24), tau, 8, 0), 64)
    assert (alone.mean(0) - soft.mean(0))[best] > (6 if tau == 0.8 else 2) * error[best]


def test_tail_copies_are_merged_and_count_as_often_as_they_were_drawn():
    """The weights of a tail, read from its draws one by one."""
    law = expanded([part.detach() for part in law_of((3, 3))], 40)
    m, r, tau = 3, 10, 0.8
    noise = uniform(40, 2, m + r)
    found, table = sample_top_m(law, noise, tau, m, r), ExponentialIntegral.at(tau, noise)
    times, joint = (-(-noise[:, 0, 0, :m]).log1p()).cumsum(-1), law.joint()
    for row in range(40):
        slots = found.slots[row, 0].tolist()
        weights = {}
        for slot, time in zip(slots[:m], times[row], strict=True):
            weights.setdefault(slot, (times[row, 0] / time) ** (1 / tau))
        later = dict.fromkeys(weights, 0.0)
        for slot in slots[m:]:
            log_x = joint[row, 0, slot] + times[row, -1].log()
            each = (times[row, 0] / times[row, -1]) ** (1 / tau) * times[row, -1] * table.log_f(log_x).exp() / r
            later[slot] = 0.0 if slot in weights else later.get(slot, 0.0) + each
        expected = torch.zeros(9, dtype=torch.float64)
        for slot, weight in [*later.items(), *weights.items()]:
            expected[slot] = weight
        torch.testing.assert_close(whole(found, 9)[row], expected / expected.sum())


def test_gradient_of_a_tail_holds_its_weight_fixed():
    """Through the scores alone: ∂ log weight/∂ log π = 1/τ, arrivals and tail alike."""
    leaves = [part.detach().clone().requires_grad_() for part in law_of((5, 5))]
    found = sample_top_m(Categorical(leaves), uniform(1, 2, 12), 0.8, 4, 8)
    soft = found.scores.softmax(-1)
    values = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (soft * values).sum().backward()
    each = (soft * (values - (soft * values).sum()))[0, 0].detach() / 0.8
    for p, leaf in enumerate(leaves):
        part = found.slots[0, 0] // 5 if p == 0 else found.slots[0, 0] % 5
        torch.testing.assert_close(leaf.grad[0, 0], torch.zeros(5).double().index_add(0, part, each))


@torch.no_grad()
@pytest.mark.parametrize("tau", [0.8, 0.5, 0.3, 0.1])
def test_chosen_races_read_like_dense_samples(tau):
    """K = 4096 with the draws that `auto` chooses: E[max z̃] and E‖y‖² within 1% of the dense sample's.

    To tell with few rows, the dense sample has the same arrivals: an exponential clock knows nothing of the time that
    has passed, so the other classes arrive at T_m plus exponential times of their own rates.
    """
    rows, rounds = 1024, 16
    values = torch.randn(4096, 8, generator=torch.Generator().manual_seed(9))
    law = expanded(law_of((64, 64), scale=2**-0.5, dtype=torch.float32), rows)
    log_pi, (m, r) = law.joint()[:, 0], split_draws(AUTO, 4096, tau)
    largest, squares = [], []
    for i in range(rounds):
        noise = uniform(rows, 2, m + r, seed=i, dtype=torch.float32)
        found = sample_top_m(law, noise, tau, m, r)
        soft, read_slots = found.scores.softmax(-1)[:, 0], found.slots[:, 0]
        last = (-(-noise[:, 0, 0, :m]).log1p()).sum(-1, keepdim=True)
        log_times = (last + (-source(rows, 1000 + i, torch.float32).gumbel(4096) - log_pi).exp()).log()
        seen = torch.full_like(log_times, torch.inf)
        first = (-(-noise[:, 0, 0, :m]).log1p()).cumsum(-1).log()
        log_times = torch.minimum(log_times, seen.scatter_reduce(-1, read_slots[:, :m], first, "amin"))
        other = (-log_times / tau).softmax(-1)
        reads = torch.einsum("bc,bcd->bd", soft, values[read_slots]), other @ values
        largest.append(torch.stack([soft[:, 0], other.amax(-1)], 1))
        squares.append(torch.stack([read.square().sum(-1) for read in reads], 1))
    for pairs in (torch.cat(largest), torch.cat(squares)):
        error = 2 * (pairs[:, 0] - pairs[:, 1]).std() / math.sqrt(len(pairs)) / pairs[:, 1].mean()
        assert error < 0.01, "the test could not tell"
        assert pairs[:, 0].mean() / pairs[:, 1].mean() == pytest.approx(1, abs=0.01)


# --- How many draws --------------------------------------------------------------------------------


def test_plan_takes_fewer_arrivals_the_colder_it_is_and_a_tail_where_it_is_hot():
    plans = [split_draws(AUTO, 2**20, tau) for tau in (0.05, 0.3, 0.4, 0.5, 0.8, 1.0)]
    assert plans == [(16, 0), (16, 0), (32, 0), (32, 32), (32, 32), (32, 32)]
    assert split_draws(RaceConfig(draws=32, arrivals=32), 2**20, 0.8) == (32, 0)
    assert split_draws(RaceConfig(draws=40, arrivals=32), 2**20, 0.1) == (32, 8)
    assert split_draws(RaceConfig(draws=256), 2**16, 0.5) == (64, 0)
    assert split_draws(RaceConfig(tolerance=0.05), 2**16, 0.5) == (16, 0)
    assert split_draws(RaceConfig(draws=1), 2**16, 0.5) == (1, 0)


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.8])
def test_no_law_drops_more_than_is_expected_of_equal_classes(tau):
    expected = expected_drop(4096, tau, 16)
    for scale in (0.0, 1.0, 3.0):
        law = expanded([part.detach() for part in law_of((64, 64), scale=scale)], 4000)
        dropped = sample_top_m(law, uniform(4000, 2, 16), tau, 16, 0).dropped
        assert dropped.mean() < 1.05 * expected + 1e-3


# --- Single precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("tail", [0, 16])
def test_races_are_finite_in_single_precision(tau, scale, tail):
    """K = 4096, from flat to very peaked laws; forward, backward, and what is dropped."""
    config = ModelConfig(
        layers=(LayerConfig(variables=2, classes=4096),), reads="race", race=RaceConfig(draws=16 + tail, arrivals=16)
    )
    layer = TopMLayer(config.layers[0], config)
    raw = (scale * torch.randn(40, 32, generator=torch.Generator().manual_seed(1))).requires_grad_()
    law = layer.distribution(raw)
    single = NoiseSource.at(CPU, torch.float32, 40, seed=0, purpose="test", step=0)
    noise = layer.noise(single)
    drawn = layer.relax(law, noise, tau)
    (drawn.read.square().sum() + law.expected_log_prob(drawn).sum()).backward()
    values = layer.values_NKD.grad.coalesce().values()
    for tensor in (drawn.read, drawn.dropped, raw.grad, layer.keys_PNMQ.grad, values):
        assert tensor.isfinite().all()
    assert ((drawn.dropped >= 0) & (drawn.dropped <= 1)).all()
    assert torch.equal(drawn.hard, layer.harden(law, noise).hard)


def test_an_arrival_at_zero_is_guarded():
    law = expanded(law_of((4, 4), dtype=torch.float32), 2)
    found = sample_top_m(law, torch.full((2, 1, 3, 8), 1.0 - 2.0**-24), 0.05, 4, 4)
    assert found.scores[..., 0].isfinite().all()
    assert found.scores.softmax(-1).isfinite().all()


# --- Layers ----------------------------------------------------------------------------------------


def layers(classes=16, shared=False):
    """A race and a dense layer with the same parameters; the race sees everything."""
    made = []
    for kind, reads in ((TopMLayer, "race"), (MemoryLayer, "dense")):
        config = ModelConfig(
            layers=(LayerConfig(variables=2, classes=classes),),
            reads=reads,
            race=RaceConfig(draws=256, arrivals=256),
            shared_values=shared,
            key_size=3,
            value_size=4,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            made.append(kind(config.layers[0], config).double())
    return made


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_a_layer_are_those_of_its_weights_over_all_classes(shared):
    """The sparse gradient of the values against the dense one; keys and queries too."""
    raced, plain = layers(shared=shared)
    raw = torch.randn(10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    other = raw.detach().clone().requires_grad_()
    drawn = raced.relax(raced.distribution(raw), raced.noise(source(10)), 0.7)
    law = plain.distribution(other)
    offset = drawn.scores.detach() - plain_scores(law, drawn, 0.7).detach()
    scores = plain_scores(law, drawn, 0.7) + offset
    soft = torch.zeros(10, 2, 16, dtype=torch.float64).scatter_add(-1, drawn.slots, scores.softmax(-1))
    read = plain.read(soft)
    torch.testing.assert_close(drawn.read, read)
    drawn.read.exp().sum().backward()
    read.exp().sum().backward()
    assert raced.values_NKD.grad.is_sparse
    torch.testing.assert_close(raced.values_NKD.grad.to_dense(), plain.values_NKD.grad)
    torch.testing.assert_close(raced.keys_PNMQ.grad, plain.keys_PNMQ.grad)
    torch.testing.assert_close(raw.grad, other.grad)


def test_gradients_of_large_memories_are_those_of_all_logits(monkeypatch):
    """Keys and queries have the same gradient whether it passes through all logits or by them."""
    raced, _ = layers(16)
    raw = torch.randn(10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for few in (256, 2):
        monkeypatch.setattr(layers_module, "FEW_KEYS", few)
        leaf = raw.clone().requires_grad_()
        law = raced.distribution(leaf)
        assert isinstance(law, layers_module.Keyed) == (few == 2)
        drawn = raced.relax(law, raced.noise(source(10)), 0.7)
        wanted = (leaf, raced.keys_PNMQ)
        gradients.append(torch.autograd.grad(drawn.read.exp().sum() + law.entropy().sum(), wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def plain_scores(law, drawn, tau):
    return law.joint().gather(-1, drawn.slots) / tau


def test_eq_15_of_a_race_is_the_sum_over_all_classes():
    raced, _ = layers()
    law = raced.distribution(torch.randn(10, 12, dtype=torch.float64))
    drawn = raced.relax(law, raced.noise(source(10)), 0.7)
    soft = torch.zeros(10, 2, 16, dtype=torch.float64).scatter_add(-1, drawn.slots, drawn.soft)
    torch.testing.assert_close(law.expected_log_prob(drawn), (soft * law.joint()).sum((1, 2)))


def test_noise_of_a_race_does_not_grow_with_the_memory():
    for classes in (16, 2**20):
        config = ModelConfig(layers=(LayerConfig(variables=1, classes=classes),), reads="race", shared_values=True)
        layer = TopMLayer(config.layers[0], config)
        assert layer.noise(source(3)).shape == (3, 1, 3, 64)
        assert layer.hard_noise(source(3)).shape == (3, 1, 2, 1)
