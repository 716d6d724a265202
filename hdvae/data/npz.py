"""Your own images: an `.npz` file with the arrays train, valid and test."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hdvae.data.binarisation import BINARIZERS
from hdvae.data.dataset import SPLITS, Dataset, Images, check_arrays, check_binary, check_varied
from hdvae.errors import InputError, nearest, reason_of


def read_own(path: str | Path, binarization: str) -> Dataset:
    """Read your own images from an `.npz` file with the arrays train, valid and test.

    Args:
        path: the file.
        binarization: `none` for uint8 [n, H, W] of 0 and 1; for gray uint8 [n, H, W], `threshold` (gray ≥ 128 becomes
            1) or `bernoulli` (one draw with a fixed seed; a pixel is 1 with probability gray/255).

    Raises:
        InputError: the file or one of its arrays is not as described, the binarization is unknown, or a split is
            constant after it.
    """
    path = Path(path)
    if binarization not in BINARIZERS:
        raise InputError(f"unknown binarization '{binarization}'{nearest(binarization, BINARIZERS)}")
    arrays = _read_npz(path)
    check_arrays(str(path), arrays)
    _check_values(str(path), arrays, binarization)
    images = BINARIZERS[binarization](arrays)
    _check_varied(str(path), arrays, images, binarization)
    provenance = {"path": str(path), "binarization": binarization}
    return Dataset.from_images(path.stem, images, provenance=provenance)


def _read_npz(path: Path) -> dict[str, Images]:
    """Read the arrays train, valid and test of an `.npz` file without checking them.

    Raises:
        InputError: the file cannot be read, or lacks one of them.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise InputError(f"{path} has a single array: save train, valid and test with numpy.savez_compressed")
        with content:
            for split in SPLITS:
                if split not in content.files:
                    raise InputError(f"{path}: no array '{split}'{nearest(split, content.files)}")
            return {split: content[split] for split in SPLITS}
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give the path of an .npz file") from error
    # numpy and zipfile raise these for files that are not archives, or truncated, damaged, pickled or encrypted.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an .npz of plain arrays ({reason_of(error)})") from error


def _check_values(where: str, arrays: Mapping[str, Images], binarization: str) -> None:
    """Check that the values suit the binarization: 0 and 1 for `none`, gray for the others.

    Raises:
        InputError: they do not.
    """
    if binarization == "none":
        check_binary(where, arrays)
    elif all(array.max() <= 1 for array in arrays.values()):
        raise InputError(
            f"{where}: the arrays have values 0 and 1 only and are already binary: use binarization 'none', "
            f"not '{binarization}'"
        )


def _check_varied(where: str, gray: Mapping[str, Images], images: Mapping[str, Images], binarization: str) -> None:
    """Check that no split is constant after binarisation.

    Raises:
        InputError: a split is. The message has the range of its gray values, which often is not 0 … 255.
    """
    if binarization == "none":
        check_varied(where, images, "give images that differ")
        return
    for split, array in gray.items():
        after = f"{where}: after binarization '{binarization}' of gray values {array.min()} to {array.max()}"
        check_varied(after, {split: images[split]}, "scale gray values to 0 … 255, and give images that differ")
