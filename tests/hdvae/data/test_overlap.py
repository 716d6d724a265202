"""Images that stand in two splits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hdvae.data.dataset import SPLITS, Dataset
from hdvae.data.overlap import Overlap, overlap_in_words, overlaps
from tests.hdvae.data.samples import random_dataset

PAIRS = (("valid", "train"), ("test", "train"), ("test", "valid"))


def naive(images):
    """Every image of a split compared with every image of another, pixel by pixel."""
    found = []
    for split, also_in in PAIRS:
        equal = (images[split][:, None] == images[also_in][None]).all((-1, -2))
        hits = np.flatnonzero(equal.any(1))
        if len(hits):
            found.append((split, also_in, len(hits), len(images[split]), hits[0], equal[hits[0]]))
    return found


@given(data=st.data(), height=st.integers(1, 3), width=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_against_all_pairs_of_images(data, height, width):
    seed = data.draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    images = {split: rng.integers(0, 2, (rng.integers(2, 9), height, width), dtype=np.uint8) for split in SPLITS}
    for part in images.values():
        part[0, 0, 0] = 1 - part[1, 0, 0]  # so that no split is constant
    found, expected = overlaps(Dataset.from_images("toy", images)), naive(images)
    assert [(one.split, one.also_in, one.count, one.size, one.example[0]) for one in found] == [
        one[:5] for one in expected
    ]
    for one, (*_, equal) in zip(found, expected, strict=True):
        assert equal[one.example[1]]


def test_no_image_in_two_splits():
    dataset = random_dataset()
    assert overlaps(dataset) == []
    assert overlap_in_words(dataset) == ""


def test_a_test_split_that_is_the_training_split():
    images = random_dataset().images("train")
    valid = random_dataset(seed=1).images("valid")
    dataset = Dataset.from_images("toy", {"train": images, "valid": valid, "test": images[::-1]})
    last = len(images) - 1
    assert overlaps(dataset) == [Overlap("test", "train", last + 1, last + 1, (0, last))]
    assert overlap_in_words(dataset) == f"20 of 20 test images are also in train (test 0 = train {last})"


def test_an_image_that_stands_twice_counts_twice():
    images = random_dataset().images("train")
    other = random_dataset(seed=1).images("test")
    test = np.concatenate([other, images[5:6], images[5:6]])
    found = overlaps(Dataset.from_images("toy", {"train": images, "valid": other[:2], "test": test}))
    assert [str(one) for one in found] == [
        "2 of 6 test images are also in train (test 4 = train 5)",
        "2 of 6 test images are also in valid (test 0 = valid 0)",
    ]


def test_one_image_is_counted_in_the_singular():
    assert str(Overlap("test", "valid", 1, 9, (3, 4))) == "1 of 9 test images is also in valid (test 3 = valid 4)"
