"""Random numbers: the same whoever draws them, independent between purposes, and of the right laws."""

import doctest
import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, norm

import hdvae.randomness.noise
from hdvae.randomness.noise import NoiseSource, batch_indices
from hdvae.randomness.seeds import derive
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


# --- Shares -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_worker_draws_its_rows_of_the_whole_batch(dtype):
    whole = numbers(at(96, dtype=dtype))
    assert whole.dtype == dtype
    assert torch.equal(numbers(at(32, first=32, dtype=dtype)), whole[32:64])
    assert torch.equal(numbers(at(16, first=80, dtype=dtype)), whole[80:])


@given(st.integers(1, 60), st.data())
def test_any_split_gives_the_same_noise(count, data):
    whole = numbers(at(count))
    cuts = sorted(data.draw(st.sets(st.integers(1, count), max_size=count)) | {0, count})
    shares = [numbers(at(b - a, first=a)) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(shares), whole)


def test_noise_is_a_function_of_seed_purpose_step_and_image():
    base = numbers(at(16))
    assert torch.equal(base, numbers(at(16)))
    for other in (at(16, seed=2), at(16, purpose="evaluation"), at(16, step=8), at(16, first=16)):
        assert not torch.isclose(base, numbers(other)).any(1).all()


def test_noise_does_not_touch_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    numbers(at(40))
    assert torch.equal(torch.rand(4), expected)


def test_successive_draws_differ():
    source = at(16)
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


def test_uniform_noise():
    noise = at(512).uniform(40).double().flatten()
    assert kstest(noise.numpy(), "uniform").pvalue > 1e-3


def count_above(draws, thresholds, kind):
    """How many of so many draws are above each threshold, as they are said to be in single precision."""
    counts, each = torch.zeros(len(thresholds), dtype=torch.long), 2**12 * 2**10
    for step in range(draws // each):
        noise = getattr(at(2**12, step=step), kind)(2**10)
        high = noise[noise > min(thresholds)].double()
        counts += (high.unsqueeze(-1) > torch.tensor(thresholds, dtype=torch.float64)).sum(0)
    return counts.tolist()


def test_gumbel_noise_has_its_upper_tail():
    """Down to 6 in 10⁸ draws: a class so many nats below the others is drawn as often as it should be."""
    draws, thresholds = 50 * 2**22, [10.0, 12.0, 14.0, 15.0, 15.95, 16.65]
    for count, threshold in zip(count_above(draws, thresholds, "gumbel"), thresholds, strict=True):
        assert binomtest(count, draws, -math.expm1(-math.exp(-threshold))).pvalue > 1e-3, (threshold, count)


def test_normal_noise_has_its_tail():
    draws, thresholds = 5 * 2**22, [4.0, 4.5, 5.0]
    for count, threshold in zip(count_above(draws, thresholds, "normal"), thresholds, strict=True):
        assert binomtest(count, draws, norm.sf(threshold)).pvalue > 1e-3, (threshold, count)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 31), (torch.float64, 63)])
def test_noise_of_every_integer(monkeypatch, dtype, bits):
    """Against exact fractions: small ones have their full relative precision, and all noise is finite."""
    integers = [0, 1, 2, 1000, 2**24 + 1, 2 ** (bits - 1), 2**bits - 2**5, 2**bits - 1, -1, -(2**bits)]

    def planted(self, integer, *shape):
        return torch.tensor(integers, dtype=integer).expand(self.count, *shape).clone()

    monkeypatch.setattr(NoiseSource, "_integers", planted)
    exact = [Fraction(2 * (k % 2**bits) + 1, 2 ** (bits + 1)) for k in integers]
    eps = torch.finfo(dtype).eps
    uniform, gumbel = (getattr(at(1, dtype=dtype), kind)(len(integers))[0] for kind in ("uniform", "gumbel"))
    assert uniform.double().tolist() == pytest.approx([float(u) for u in exact], rel=2 * eps)
    assert ((uniform > 0) & (uniform < 1)).all()
    for found, u in zip(gumbel.tolist(), exact, strict=True):
        below_one = min(float(u), 1 - eps / 2)
        if u < Fraction(1, 2):  # the other half depends on the rounding of u, and has no classes that matter
            assert found == pytest.approx(-math.log(-math.log1p(-below_one)), rel=4 * eps, abs=4 * eps)
    assert torch.isfinite(gumbel).all()
    assert gumbel.max().item() == pytest.approx((bits + 1) * math.log(2), rel=1e-6)


def test_normal_noise_is_finite_for_extreme_integers(monkeypatch):
    for low, high in itertools.product([0, 2**31 - 1], repeat=2):
        pair = torch.tensor([[[low], [high]]], dtype=torch.int32)
        monkeypatch.setattr(NoiseSource, "_integers", lambda self, *_, pair=pair: pair.clone())
        assert torch.isfinite(at(1).normal(2)).all()
    assert torch.isfinite(at(1).normal(1)).all()


@pytest.mark.parametrize("share", [1, 6554, 2**15, 2**16 - 1])
def test_chances(share):
    drawn = at(512).chance(share, 4096)
    assert binomtest(int(drawn.sum()), drawn.numel(), share / 2**16).pvalue > 1e-3


# --- The definition -------------------------------------------------------------------------------------


def mixed(word):
    """SplitMix64's mix, from the paper, in Python's integers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 31), (torch.float64, 63)])
def test_noise_is_what_its_definition_says(dtype, bits):
    """Anyone may draw the numbers in another way, if they stay these numbers."""
    text = hashlib.blake2b(b"1/training/7", digest_size=16).digest()
    start, increment = int.from_bytes(text[:8], "big"), int.from_bytes(text[8:], "big") | 1
    values, each = 5, 64 // (bits + 1)
    words = -(-values // each)
    source = at(3, first=2, dtype=dtype)
    source.chance(1, 9)
    source.normal(1)
    found = source.uniform(values)
    for image, index in itertools.product(range(3), range(values)):
        position = 2 * 2**40 + (2 + image) * words + index // each
        word = mixed((start + position * increment) % 2**64)
        k = (word >> (bits + 1) * (index % each)) % 2**bits
        assert found[image, index].item() == pytest.approx((k + 0.5) / 2**bits, rel=1e-6)


def test_steps_do_not_share_their_noise():
    """With 32 bits of a seed some steps shared it: of these two, the last 16 of 80 images and the images 16 to 31."""
    one = at(80, seed=0, step=923).gumbel(50)[64:]
    other = at(32, seed=0, step=4192).gumbel(50)[16:]
    assert not torch.isclose(one, other).any(1).all()


def test_noise_does_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        source = at(100)
        found.append(torch.cat([source.gumbel(1000), source.normal(1001), source.chance(99, 77)], 1))
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


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


@pytest.mark.parametrize("kind", ["uniform", "gumbel", "normal"])
def test_the_noise_of_an_image_does_not_depend_on_how_many_follow(kind):
    def noise(count):
        source = NoiseSource.at(torch.device("cpu"), torch.float32, count, seed=0, purpose="t", step=0)
        return getattr(source, kind)(3)

    for count in (1, 5, 16, 17, 30):
        assert torch.equal(noise(40)[:count], noise(count))
