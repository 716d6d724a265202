"""Data sets in memory: packing, checksums, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdvae.data.dataset import SPLITS, Dataset
from hdvae.errors import InputError
from tests.hdvae.data.samples import SIZES, one_line, random_dataset, random_images


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_images_of_any_size_survive_packing(height, width, seed):
    images = random_images(seed, height, width)
    for split in SPLITS:
        images[split][0, 0, 0] = 1 - images[split][1, 0, 0]  # so that no split is constant
    dataset = Dataset.from_images("toy", images)
    for split in SPLITS:
        assert dataset.packed[split].shape == (SIZES[split], -(-height * width // 8))
        unpacked = dataset.images(split)
        assert unpacked.dtype == np.uint8
        np.testing.assert_array_equal(unpacked, images[split])
        assert dataset.size(split) == SIZES[split]


def test_rows_are_packed_with_the_first_pixel_in_the_highest_bit():
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, 0, 0] = image[0, 2, 2] = 1
    dataset = Dataset.from_images("toy", dict.fromkeys(SPLITS, image))
    assert dataset.packed["train"].tolist() == [[0b10000000, 0b10000000]]


def test_checksum_depends_on_content_alone():
    images = random_images()
    checksum = Dataset.from_images("toy", images).checksum
    assert Dataset.from_images("other", images, {"test": np.arange(4)}, {"a": 1}).checksum == checksum
    assert Dataset.from_images("toy", dict(reversed(images.items()))).checksum == checksum

    images["test"][0, 0, 0] ^= 1
    assert Dataset.from_images("toy", images).checksum != checksum


def test_checksum_tells_shapes_and_splits_apart():
    rows = np.zeros((6, 24), np.uint8)
    rows[0, 0] = 1
    wide = {split: rows.reshape(6, 4, 6) for split in SPLITS}
    high = {split: rows.reshape(6, 6, 4) for split in SPLITS}
    moved = {"train": wide["train"][:5], "valid": np.append(wide["valid"], wide["train"][5:], 0), "test": wide["test"]}
    checksums = {Dataset.from_images("toy", images).checksum for images in (wide, high, moved)}
    assert len(checksums) == 3


def test_checksum_is_pinned():
    rows = np.arange(6, dtype=np.uint8).reshape(3, 2)
    dataset = Dataset("toy", 4, 4, dict.fromkeys(SPLITS, rows), {}, {})
    # The sha256 of the text and bytes that the docstring promises, by another program.
    assert dataset.checksum == "8ca9e87ebcd306c824a3fc8334c0f697d3649d3af969c144b1f0eb1d87dbf4df"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ({"train": np.full((2, 2, 2), 2, np.uint8)}, {}),
        ({"train": np.zeros((2, 4), np.uint8)}, {}),
        ({"valid": np.zeros((2, 2, 3), np.uint8)}, {}),
        ({}, {"train": np.arange(3)}),
        ({}, {"train": np.array([0, 40000])}),
        ({}, {"train": np.array([0.5, 1])}),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels):
    good = dict.fromkeys(SPLITS, np.eye(2, dtype=np.uint8).repeat(2).reshape(2, 2, 2))
    with pytest.raises(ValueError, match=r"train|valid"):
        Dataset.from_images("toy", good | images, labels)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="not uint8"):
        replace(random_dataset(), height=50)
    with pytest.raises(ValueError, match="splits are"):
        replace(random_dataset(), packed={})


HALF = np.tile(np.array([[0, 1]], np.uint8), (3, 2, 1))
CONSTANT = {
    "black": (np.zeros((3, 2, 2), np.uint8), "all pixels of split '{}' are 0"),
    "white": (np.ones((3, 3, 3), np.uint8), "all pixels of split '{}' are 1"),
    "one black image": (np.zeros((1, 2, 2), np.uint8), "all pixels of split '{}' are 0"),
    "the same image": (HALF, "all 3 images of split '{}' are the same"),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("images", "expected"), CONSTANT.values(), ids=CONSTANT)
def test_a_constant_split_is_refused(images, expected, split):
    good = dict.fromkeys(SPLITS, np.stack([np.zeros_like(images[0]), np.ones_like(images[0])]))
    with pytest.raises(InputError) as error:
        Dataset.from_images("toy", good | {split: images})
    expected = f"data set 'toy': {expected.format(split)}, so there is nothing to learn from it"
    assert one_line(error).startswith(expected)


def test_a_single_image_is_no_constant_split():
    assert Dataset.from_images("toy", dict.fromkeys(SPLITS, HALF[:1])).size("train") == 1
