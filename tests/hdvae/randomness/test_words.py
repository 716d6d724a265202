"""Random words: known ones, on every device the same, of any part of a stream, and without visible order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from hdvae.randomness import words
from hdvae.randomness.seeds import derive_key
from hdvae.randomness.words import CHUNK, Stream

CPU = torch.device("cpu")
GOLDEN = 0x9E3779B97F4A7C15
keys = st.integers(0, 2**128 - 1)


def drawn(stream, first, count):
    return stream.words(first, count, CPU).numpy().view(np.uint64)


def test_known_words():
    """The first words of SplitMix64 with the seed 1234567, as Vigna's public code gives them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert drawn(Stream(1234567, GOLDEN), 1, 5).tolist() == known


@given(keys, st.integers(0, 2**63), st.integers(0, 200))
def test_torch_makes_the_same_words_as_numpy(key, first, count):
    """So accelerators, for which torch makes them, have the noise of the processor."""
    stream = Stream.of(key)
    begin = (stream.start + first * stream.increment) % 2**64
    assert torch.equal(words._by_torch(begin, stream.increment, count, CPU), stream.words(first, count, CPU))


@given(keys, st.integers(0, 2**50), st.integers(0, 3 * CHUNK), st.integers(0, 3 * CHUNK))
def test_a_part_of_a_stream_is_what_the_whole_has_there(key, first, skipped, count):
    stream = Stream.of(key)
    assert np.array_equal(drawn(stream, first + skipped, count), drawn(stream, first, skipped + count)[skipped:])


@given(keys)
def test_increments_are_odd_and_not_too_regular(key):
    increment = Stream.of(key).increment
    assert increment % 2 == 1
    assert (increment ^ increment >> 1).bit_count() >= 24


@pytest.mark.parametrize("bits", [0, 1, 2**64 - 1])
def test_regular_increments_are_altered(bits):
    assert (Stream.of(bits).increment ^ Stream.of(bits).increment >> 1).bit_count() >= 24


def test_bits_are_fair_and_independent_of_their_neighbours():
    """Each bit, and each pair of bits in a word, in the next word, and at the same place of the next step's stream."""
    one, next_step = (drawn(Stream.of(derive_key(0, "training", step)), 0, 2**14 + 1) for step in (0, 1))
    shifts = np.arange(64, dtype=np.uint64)

    def signs(part):
        return 1.0 - 2.0 * (part[:, None] >> shifts & np.uint64(1)).astype(float)

    here, after, beside = signs(one[:-1]), signs(one[1:]), signs(next_step[:-1])
    scale = len(here) ** -0.5
    assert np.abs(here.mean(0)).max() < 4.5 * scale
    within = here.T @ here / len(here)
    assert np.abs(within[~np.eye(64, dtype=bool)]).max() < 5.5 * scale
    for other in (after, beside):
        assert np.abs(here.T @ other / len(here)).max() < 5.5 * scale


def test_the_pairs_of_bytes_of_a_word_are_equally_likely():
    halves = drawn(Stream.of(derive_key(3, "evaluation", 9)), 5, 2**18).view(np.uint16)
    assert chisquare(np.bincount(halves, minlength=2**16)).pvalue > 1e-3
