"""Random data sets for the tests of data sets."""

import numpy as np

from hdvae.data.dataset import SPLITS, Dataset

SIZES = {"train": 20, "valid": 5, "test": 4}


def random_images(seed=0, height=5, width=7, top=2):
    rng = np.random.default_rng(seed)
    return {split: rng.integers(0, top, (n, height, width), dtype=np.uint8) for split, n in SIZES.items()}


def random_dataset(name="toy", **kwargs):
    labels = {split: np.arange(n) - 3 for split, n in SIZES.items()}
    return Dataset.from_images(name, random_images(**kwargs), labels, {"build": "random", "seed": [0, None]})


def assert_same(one, other):
    assert (one.name, one.height, one.width) == (other.name, other.height, other.width)
    assert one.provenance == other.provenance
    assert one.checksum == other.checksum
    for split in SPLITS:
        np.testing.assert_array_equal(one.images(split), other.images(split))
    assert set(one.labels) == set(other.labels)
    for split in one.labels:
        assert one.labels[split].dtype == other.labels[split].dtype == np.int16
        np.testing.assert_array_equal(one.labels[split], other.labels[split])


def one_line(error):
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def names_in(folder):
    return [path.name for path in folder.iterdir()]
