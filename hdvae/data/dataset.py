"""Data sets of binary images in memory.

Each image is one bit-packed row, so 70,000 images of 28 × 28 pixels take 7 MB. A data set is identified by its
`Dataset.checksum`, which depends on shapes and pixels only, not on the name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hdvae.errors import InputError, nearest

SPLITS = ("train", "valid", "test")

Images = npt.NDArray[np.uint8]
"""uint8 [n, H, W]; 0 and 1 unless described as gray."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Binary images in three splits.

    Attributes:
        name: the name of the data set, which is not part of its content.
        height: H, the number of rows of an image.
        width: W, the number of columns of an image.
        packed: for each split, uint8 [n, ceil(H*W/8)]: the pixels of one image per row, eight per byte.
        labels: for each split with labels, int16 [n].
        provenance: the origin of the images and how they were made, as JSON values.

    Raises:
        ValueError: splits or shapes do not fit together.
        InputError: all pixels or all images of a split are equal.
    """

    name: str
    height: int
    width: int
    packed: Mapping[str, Images]
    labels: Mapping[str, npt.NDArray[np.int16]]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if set(self.packed) != set(SPLITS):
            raise ValueError(f"splits are {sorted(self.packed)}, not {', '.join(SPLITS)}")
        row_bytes = _row_bytes(self.height, self.width)
        for split, rows in self.packed.items():
            if rows.dtype != np.uint8 or rows.shape != (len(rows), row_bytes):
                raise ValueError(f"{split} is {rows.dtype} {rows.shape}, not uint8 [n, {row_bytes}]")
            if _all_equal(rows):  # seldom, so images are seldom unpacked for this
                check_varied(f"data set '{self.name}'", {split: self.images(split)}, "give images that differ")
        for split, labels in self.labels.items():
            if labels.dtype != np.int16 or labels.shape != (self.size(split),):
                raise ValueError(f"{split} labels are {labels.dtype} {labels.shape}, not int16 [n]")

    @classmethod
    def from_images(
        cls,
        name: str,
        splits: Mapping[str, Images],
        labels: Mapping[str, npt.NDArray[Any]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Pack binary images.

        Args:
            name: the name of the data set.
            splits: for each of train, valid and test, uint8 [n, H, W] of 0 and 1.
            labels: for each split with labels, integers [n] that fit into int16.
            provenance: the origin of the images, as JSON values.

        Raises:
            InputError: an array is missing, empty, not of this type and shape, or all its pixels or images are equal.
            ValueError: labels do not fit their images, or not into int16.
        """
        where = f"data set '{name}'"
        height, width = check_arrays(where, splits)
        check_binary(where, splits)
        packed = {split: np.packbits(_flat(splits[split]), axis=-1) for split in SPLITS}
        small = {split: _as_int16(split, values) for split, values in (labels or {}).items()}
        return cls(name, height, width, packed, small, provenance or {})

    def images(self, split: str) -> Images:
        """Unpack the images of one split into a new uint8 array [n, H, W] of 0 and 1."""
        bits = np.unpackbits(self.packed[split], axis=-1, count=self.height * self.width)
        return bits.reshape(-1, self.height, self.width)

    def size(self, split: str) -> int:
        """The number of images in one split."""
        return len(self.packed[split])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hexadecimal) of the image size and of the name, length and packed rows of every split, in order."""
        digest = hashlib.sha256(f"{self.height} {self.width}\n".encode())
        for split in SPLITS:
            digest.update(f"{split} {self.size(split)}\n".encode())
            digest.update(np.ascontiguousarray(self.packed[split]).data)
        return digest.hexdigest()


def check_arrays(where: str, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int]:
    """Check that every split is a non-empty uint8 array [n, H, W] with the same H and W, and return (H, W).

    Args:
        where: the name of the source in error messages.
        arrays: the array of each split.

    Raises:
        InputError: an array is not as described.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for split in SPLITS:
        if split not in arrays:
            raise InputError(f"{where}: no array '{split}'{nearest(split, arrays)}")
        array = arrays[split]
        if array.dtype != np.uint8:
            raise InputError(f"{where}: array '{split}' is {array.dtype}, not uint8")
        if array.ndim != 3:
            raise InputError(f"{where}: array '{split}' has shape {list(array.shape)}, not [n, height, width]")
        if array.size == 0:
            raise InputError(f"{where}: array '{split}' has no images (shape {list(array.shape)})")
        sizes[split] = (array.shape[1], array.shape[2])
        if sizes[split] != sizes["train"]:
            got, expected = ("{}x{}".format(*sizes[key]) for key in (split, "train"))
            raise InputError(f"{where}: images of '{split}' are {got}, but those of 'train' {expected}: use one size")
    return sizes["train"]


def check_binary(where: str, arrays: Mapping[str, Images]) -> None:
    """Check that all values are 0 or 1.

    Raises:
        InputError: there is another value.
    """
    for split in SPLITS:
        top = arrays[split].max()
        if top > 1:
            raise InputError(
                f"{where}: array '{split}' has values up to {top}, not only 0 and 1: "
                "for gray images use binarization 'threshold' or 'bernoulli'"
            )


def check_varied(where: str, arrays: Mapping[str, Images], hint: str) -> None:
    """Check that no split is constant: neither all its pixels nor all its images, if it has several, are equal.

    Args:
        where: the name of the source, and how the images were made from it.
        arrays: binary images by split, as they are stored.
        hint: what to do instead.

    Raises:
        InputError: a split is constant.
    """
    for split, images in arrays.items():
        if not _all_equal(images):
            continue
        if images.min() == images.max():
            same = f"all pixels of split '{split}' are {images.min()}"
        elif len(images) > 1:
            same = f"all {len(images)} images of split '{split}' are the same"
        else:
            continue
        raise InputError(f"{where}: {same}, so there is nothing to learn from it: {hint}")


def _all_equal(rows: npt.NDArray[Any]) -> bool:
    """Whether there are rows, and all of them are equal; stops at the first that differs."""
    return len(rows) > 0 and all(np.array_equal(row, rows[0]) for row in rows)


def _row_bytes(height: int, width: int) -> int:
    """The number of bytes of one packed image."""
    return -(-height * width // 8)


def _flat(images: Images) -> Images:
    """A view of [n, H, W] as [n, H*W]."""
    return images.reshape(len(images), -1)


def _as_int16(split: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """The labels as int16.

    Raises:
        ValueError: they do not fit into int16.
    """
    narrow = np.asarray(values).astype(np.int16)
    if not np.array_equal(narrow, values):
        raise ValueError(f"{split} labels do not fit into int16")
    return narrow
