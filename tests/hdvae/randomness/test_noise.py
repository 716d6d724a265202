"""Random numbers: the same whoever draws them, independent between purposes, and of the right laws."""

import doctest
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

import hdvae.randomness.noise
from hdvae.randomness.noise import NoiseSource, batch_indices, generator
from hdvae.randomness.seeds import derive
from hdvae.randomness.shares import BLOCK
from tests.hdvae.oracle import assert_mean

CPU = torch.device("cpu")


def at(count, first=0, *, seed=1, purpose="training", step=7, dtype=torch.float32):
    return NoiseSource.at(CPU, dtype, count, seed=seed, purpose=purpose, step=step, first=first)


def numbers(source):
    """What successive calls of a source give."""
    return torch.cat([source.gumbel(2, 5).flatten(1), source.normal(3), source.gumbel(4)], 1)


def test_the_examples_of_the_documentation():
    assert doctest.testmod(hdvae.randomness.noise).failed == 0


def test_derived_seeds_are_unrelated_and_do_not_change_between_versions():
    """Checkpoints and studies rely on these very numbers."""
    assert derive(0, "order") == 5618756638689033999
    assert derive(3, "training", 5, 2) == 5152253117255184488
    seeds = {derive(s, p, t, b) for s in range(5) for p in ("a", "b") for t in range(5) for b in range(5)}
    assert len(seeds) == 5 * 2 * 5 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(1, "a", 11) != derive(1, "a", 1, 1) != derive(11, "a", 1)


def test_generator_starts_at_its_seed():
    one, other = generator(CPU, 1, "a", 2), generator(CPU, 1, "a", 2)
    assert torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=other))


# --- Blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_worker_draws_its_rows_of_the_whole_batch(dtype):
    whole = numbers(at(96, dtype=dtype))
    assert whole.dtype == dtype
    assert torch.equal(numbers(at(32, first=32, dtype=dtype)), whole[32:64])
    assert torch.equal(numbers(at(16, first=80, dtype=dtype)), whole[80:])


@given(st.integers(1, 6), st.data())
def test_any_split_into_blocks_gives_the_same_noise(blocks, data):
    whole = numbers(at(blocks * BLOCK))
    cuts = sorted(data.draw(st.sets(st.integers(1, blocks), max_size=blocks)) | {0, blocks})
    shares = [numbers(at((b - a) * BLOCK, first=a * BLOCK)) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(shares), whole)


def test_a_batch_that_is_no_multiple_of_the_block():
    whole = numbers(at(BLOCK + 5))
    assert whole.shape[0] == BLOCK + 5
    assert torch.equal(whole[:BLOCK], numbers(at(BLOCK)))
    assert torch.equal(whole[BLOCK:], numbers(at(5, first=BLOCK)))
    assert torch.isfinite(whole).all()


def test_noise_is_a_function_of_seed_purpose_step_and_block():
    base = numbers(at(BLOCK))
    assert torch.equal(base, numbers(at(BLOCK)))
    for other in (at(BLOCK, seed=2), at(BLOCK, purpose="evaluation"), at(BLOCK, step=8), at(BLOCK, first=BLOCK)):
        assert not torch.isclose(base, numbers(other)).any(1).all()


def test_noise_does_not_touch_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    numbers(at(40))
    assert torch.equal(torch.rand(4), expected)


def test_successive_draws_differ():
    source = at(BLOCK)
    assert not torch.equal(source.gumbel(3), source.gumbel(3))


# --- Laws ---------------------------------------------------------------------------------------------


def test_gumbel_noise():
    """Mean γ, variance π²/6, and the whole law."""
    noise = at(512).gumbel(40).double().flatten()
    assert_mean(noise, np.euler_gamma)
    assert_mean((noise - np.euler_gamma).square(), math.pi**2 / 6)
    assert kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


def test_normal_noise():
    noise = at(512).normal(40).double().flatten()
    assert_mean(noise, 0.0)
    assert_mean(noise.square(), 1.0)
    assert kstest(noise.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("uniform", [0.0, 2.0**-25, 2.0**-24, 0.5, 1 - 2.0**-24])
def test_gumbel_noise_is_finite_for_every_uniform(monkeypatch, uniform):
    monkeypatch.setattr(NoiseSource, "_fill", lambda self, shape, kind: torch.full((self.count, *shape), uniform))
    noise = at(2).gumbel(3)
    assert torch.isfinite(noise).all()
    expected = -math.log(-math.log(max(uniform, 2.0**-25)))
    assert noise[0, 0].item() == pytest.approx(expected, rel=1e-5)


# --- Which images a step sees -------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_every_image_is_seen_once_before_any_is_seen_twice(images, batch_size, seed):
    steps = -(-3 * images // batch_size)
    seen = np.concatenate([batch_indices(seed, step, batch_size, images) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * images : (epoch + 1) * images]) == list(range(images))


def test_order_depends_on_the_seed_and_the_epoch():
    epochs = [tuple(batch_indices(seed, step, 50, 50)) for seed in (0, 1) for step in (0, 1)]
    assert len(set(epochs)) == 4
    assert tuple(range(50)) not in epochs
    assert np.array_equal(batch_indices(0, 0, 50, 50), epochs[0])
    assert batch_indices(0, 0, 50, 50).dtype == np.int64


@pytest.mark.parametrize("kind", ["gumbel", "normal"])
def test_the_noise_of_an_image_does_not_depend_on_how_many_follow(kind):
    def noise(count):
        source = NoiseSource.at(torch.device("cpu"), torch.float32, count, seed=0, purpose="t", step=0)
        return getattr(source, kind)(3)

    for count in (1, 5, 16, 17, 30):
        assert torch.equal(noise(40)[:count], noise(count))


def test_a_share_begins_at_a_block():
    with pytest.raises(ValueError, match="blocks of 16"):
        NoiseSource.at(torch.device("cpu"), torch.float32, 4, seed=0, purpose="t", step=0, first=8)
