"""Your own images: `.npz` files, their binarisation, and their faults."""

import zipfile

import numpy as np
import pytest

from hdvae.data.dataset import SPLITS
from hdvae.data.npz import read_own
from hdvae.errors import InputError
from tests.hdvae.data.samples import one_line, random_images


def test_own_binary_images(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", **random_images(), extra=np.arange(3))
    dataset = read_own(tmp_path / "mine.npz", "none")
    assert (dataset.name, dataset.height, dataset.width) == ("mine", 5, 7)
    assert dataset.provenance == {"path": str(tmp_path / "mine.npz"), "binarization": "none"}
    for split, images in random_images().items():
        np.testing.assert_array_equal(dataset.images(split), images)


def test_own_gray_images_with_threshold(tmp_path):
    gray = random_images(top=256)
    gray["train"][0, 0, :3] = 127, 128, 255
    np.savez(tmp_path / "mine.npz", **gray)
    dataset = read_own(tmp_path / "mine.npz", "threshold")
    assert dataset.images("train")[0, 0, :3].tolist() == [0, 1, 1]
    for split in SPLITS:
        np.testing.assert_array_equal(dataset.images(split), gray[split] > 127)


def test_own_gray_images_with_bernoulli(tmp_path):
    gray = random_images(top=256)
    gray["train"] = np.tile(gray["train"], (500, 1, 1))  # More rows than are drawn at a time.
    gray["train"][:, 0, 0], gray["train"][:, 0, 1] = 0, 255
    np.savez(tmp_path / "mine.npz", **gray)
    dataset = read_own(tmp_path / "mine.npz", "bernoulli")
    random = np.random.RandomState(777)
    for split in SPLITS:
        expected = random.random_sample(gray[split].shape) < gray[split] / 255
        np.testing.assert_array_equal(dataset.images(split), expected)
    assert not dataset.images("train")[:, 0, 0].any()
    assert dataset.images("train")[:, 0, 1].all()


def save(path, **changes):
    arrays = random_images() | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def save_pickled(path):
    save(path, valid=np.array([{}, {}], object))


def save_truncated(path):
    save(path)
    path.write_bytes(path.read_bytes()[:-50])


def save_damaged(path):
    save(path)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def save_bare(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2, 2), np.uint8))


def save_other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


ZEROS = np.zeros((3, 5, 7))
FAULTS = {
    "missing file": (lambda path: None, "none", "does not exist"),
    "folder": (lambda path: path.mkdir(), "none", "cannot be read as an .npz"),
    "empty file": (lambda path: path.write_bytes(b""), "none", "cannot be read as an .npz"),
    "text": (lambda path: path.write_text("train"), "none", "cannot be read as an .npz"),
    "truncated": (save_truncated, "none", "cannot be read as an .npz"),
    "damaged": (save_damaged, "none", "cannot be read as an .npz"),
    "pickled": (save_pickled, "none", "cannot be read as an .npz"),
    "bare array": (save_bare, "none", "a single array: save train, valid and test"),
    "other zip": (save_other_zip, "none", "no array 'train'; known: readme.txt"),
    "misspelt": (
        lambda path: save(path, valid=None, vaild=ZEROS.astype(np.uint8)),
        "none",
        "no array 'valid'; did you mean 'vaild'?",
    ),
    "dtype": (lambda path: save(path, test=ZEROS), "none", "array 'test' is float64, not uint8"),
    "bool": (lambda path: save(path, test=ZEROS > 0), "none", "array 'test' is bool, not uint8"),
    "rank": (
        lambda path: save(path, valid=np.zeros((3, 35), np.uint8)),
        "none",
        "array 'valid' has shape [3, 35], not [n, height, width]",
    ),
    "size": (
        lambda path: save(path, test=np.zeros((3, 7, 5), np.uint8)),
        "none",
        "images of 'test' are 7x5, but those of 'train' 5x7",
    ),
    "empty": (lambda path: save(path, valid=np.zeros((0, 5, 7), np.uint8)), "none", "'valid' has no images"),
    "gray with none": (
        lambda path: save(path, valid=np.full((3, 5, 7), 255, np.uint8)),
        "none",
        "array 'valid' has values up to 255, not only 0 and 1: for gray images use binarization 'threshold'",
    ),
    "binary with threshold": (save, "threshold", "already binary: use binarization 'none'"),
    "binary with bernoulli": (save, "bernoulli", "already binary: use binarization 'none'"),
    "threshold above all gray values": (
        lambda path: save(path, **random_images(top=17)),
        "threshold",
        "after binarization 'threshold' of gray values 0 to 16: all pixels of split 'train' are 0, so there is nothing "
        "to learn from it: scale gray values to 0 … 255",
    ),
    "one split too dark for the threshold": (
        lambda path: save(path, **random_images(top=256) | {"test": np.full((3, 5, 7), 127, np.uint8)}),
        "threshold",
        "of gray values 127 to 127: all pixels of split 'test' are 0",
    ),
    "a draw that is black": (
        lambda path: save(path, **random_images(top=256) | {"valid": np.zeros((3, 5, 7), np.uint8)}),
        "bernoulli",
        "after binarization 'bernoulli' of gray values 0 to 0: all pixels of split 'valid' are 0",
    ),
    "white": (
        lambda path: save(path, valid=np.ones((3, 5, 7), np.uint8)),
        "none",
        "mine.npz: all pixels of split 'valid' are 1, so there is nothing to learn from it: give images that differ",
    ),
    "equal images": (
        lambda path: save(path, train=np.tile(random_images()["train"][:1], (4, 1, 1))),
        "none",
        "mine.npz: all 4 images of split 'train' are the same",
    ),
    "binarization": (save, "treshold", "unknown binarization 'treshold'; did you mean 'threshold'?"),
}


@pytest.mark.parametrize(("write", "binarization", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults_of_own_files(tmp_path, write, binarization, expected):
    path = tmp_path / "mine.npz"
    write(path)
    with pytest.raises(InputError) as error:
        read_own(path, binarization)
    assert expected in one_line(error)
    assert "binarization '" in str(error.value) or str(path) in str(error.value)
