"""Binary image data sets: what a data set is, how it is kept, and how training gets one.

- Images are bits: a data set holds each image as one bit-packed row, so 70000 images of 28x28 take 7 MB.
- A data set is known by its content: `Dataset.checksum` depends on shapes and pixels alone, not on its name.
- On disk it is one Parquet file, written whole or not at all, and checked whenever it is read.
- A binarisation by drawing is drawn once, with a fixed seed, so that every run sees the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hdvae.errors import InputError, nearest

SPLITS = ("train", "valid", "test")

Images = npt.NDArray[np.uint8]
"""[n, H, W], 0 or 1 unless said to be gray."""

_METADATA_KEY = b"hdvae"
_THRESHOLD = 128
_WHITE = 255
_DRAW_SEED = 777
_DRAW_ROWS = 4096
_FETCH_HINT = "run `hdvae data fetch {}`"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Binary images in three splits.

    Attributes:
        name: what the data set is called; no part of its content.
        height: H, rows of an image.
        width: W, columns of an image.
        packed: for each split, uint8 [n, ceil(H*W/8)]: the pixels of one image in one row, eight to a byte.
        labels: for each split that has them, int16 [n].
        provenance: where the images come from and how they were made; JSON values only.

    Raises:
        ValueError: if the splits or the shapes do not fit together.
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
            name: what to call the data set.
            splits: for each of train, valid and test, uint8 [n, H, W] of 0 and 1.
            labels: for each split that has them, integers [n] that fit int16.
            provenance: JSON values that tell where the images come from.

        Raises:
            InputError: if an array is missing, empty or not of this kind.
            ValueError: if labels do not fit their images or int16.
        """
        where = f"data set '{name}'"
        height, width = _check_arrays(where, splits)
        _check_binary(where, splits)
        packed = {split: np.packbits(_flat(splits[split]), axis=-1) for split in SPLITS}
        small = {split: _as_int16(split, values) for split, values in (labels or {}).items()}
        return cls(name, height, width, packed, small, provenance or {})

    def images(self, split: str) -> Images:
        """Unpack one split into a fresh uint8 array [n, H, W] of 0 and 1."""
        bits = np.unpackbits(self.packed[split], axis=-1, count=self.height * self.width)
        return bits.reshape(-1, self.height, self.width)

    def size(self, split: str) -> int:
        """Count the images of one split."""
        return len(self.packed[split])

    @cached_property
    def checksum(self) -> str:
        """Sha256 (hex) of the image size and of every split's name, length and packed rows, in order."""
        digest = hashlib.sha256(f"{self.height} {self.width}\n".encode())
        for split in SPLITS:
            digest.update(f"{split} {self.size(split)}\n".encode())
            digest.update(np.ascontiguousarray(self.packed[split]).data)
        return digest.hexdigest()


def parquet_path(home: Path, name: str) -> Path:
    """Say where the data set `name` is kept under `home`."""
    return home / "data" / f"{name}.parquet"


def is_there(path: Path) -> bool:
    """Say whether something exists at `path`.

    Raises:
        InputError: if that cannot be told, e.g. because a folder may not be entered.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"cannot look at {path}: {error.strerror}") from error
    return True


def load(home: Path, name: str | None, path: str | None, binarization: str = "none") -> Dataset:
    """Load the data set that a study asks for: a fetched one by name, or a user's own file.

    Args:
        home: folder of everything local.
        name: name of a fetched data set, or None.
        path: a user's `.npz` (see `read_own`), or None.
        binarization: how to make the images of `path` binary; fetched data sets are binary already.

    Raises:
        InputError: if not exactly one of name and path is given, or what they name cannot be used.
    """
    if name is not None and path is None:
        return _load_fetched(home, name, binarization)
    if path is not None and name is None:
        return read_own(path, binarization)
    given = "neither" if name is None else f"both '{name}' and '{path}'"
    raise InputError(f"data: give either the name of a data set or the path of an .npz file, not {given}")


def _load_fetched(home: Path, name: str, binarization: str) -> Dataset:
    """Read the fetched data set `name`, which is binary and must be the one that its file claims to be."""
    if binarization != "none":
        raise InputError(f"data set '{name}' is binary already: binarization must be 'none', not '{binarization}'")
    path = parquet_path(home, name)
    if not is_there(path):
        raise InputError(f"data set '{name}' is not fetched (looked in {path}): {_FETCH_HINT.format(name)}")
    dataset = read_parquet(path)
    if dataset.name != name:
        raise InputError(f"{path} holds data set '{dataset.name}', not '{name}': {_FETCH_HINT.format(name)}")
    return dataset


# --- Parquet --------------------------------------------------------------------------------------


def write_parquet(dataset: Dataset, path: Path) -> None:
    """Write a data set to one Parquet file, whole or not at all; missing folders are made.

    Columns: split (dictionary string), index (int32, position inside its split), label (int16, null where
    there is none), pixels (fixed-size binary, one bit-packed image). The schema's metadata holds one JSON
    document under `hdvae`.

    Raises:
        InputError: if the file cannot be written; nothing is left behind then.
    """
    table = _to_table(dataset)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            # Uncompressed, as the rows are small already; page checksums also guard index and labels.
            pq.write_table(table, file, compression="none", use_dictionary=["split"], write_page_checksum=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from error


def read_parquet(path: Path) -> Dataset:
    """Read a data set that `write_parquet` wrote, and check it; its rows are views of Arrow's memory.

    Raises:
        InputError: if the file cannot be read, is damaged, or is not a data set.
    """
    try:
        table = pq.read_table(path, memory_map=True, partitioning=None, page_checksum_verification=True)
        return _from_table(table)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        hint = _FETCH_HINT.format(path.stem)
        raise InputError(f"{path} is damaged or no data set ({_reason(error)}): {hint}") from error


def _to_table(dataset: Dataset) -> Any:
    """Lay a data set out as an Arrow table: the splits one after the other."""
    sizes = [dataset.size(split) for split in SPLITS]
    rows = np.concatenate([dataset.packed[split] for split in SPLITS])
    pixels = pa.Array.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)])
    codes = pa.array(np.repeat(np.arange(len(SPLITS), dtype=np.int8), sizes))
    columns = {
        "split": pa.DictionaryArray.from_arrays(codes, pa.array(SPLITS)),
        "index": pa.array(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])),
        "label": pa.concat_arrays([_label_column(dataset, split) for split in SPLITS]),
        "pixels": pixels,
    }
    about = {
        "name": dataset.name,
        "height": dataset.height,
        "width": dataset.width,
        "provenance": dict(dataset.provenance),
        "checksum": dataset.checksum,
    }
    return pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(about)})


def _label_column(dataset: Dataset, split: str) -> Any:
    """Make the label column of one split: null where there are no labels."""
    if split in dataset.labels:
        return pa.array(dataset.labels[split])
    return pa.nulls(dataset.size(split), pa.int16())


def _from_table(table: Any) -> Dataset:
    """Rebuild a data set from its table.

    Raises:
        ValueError: if the content is not what its checksum says. Other faults of a foreign table come out as
            ValueError, KeyError, TypeError or an Arrow exception.
    """
    about = json.loads(table.schema.metadata[_METADATA_KEY])
    parts = _split_tables(table)
    dataset = Dataset(
        name=about["name"],
        height=about["height"],
        width=about["width"],
        packed={split: _pixel_rows(part["pixels"]) for split, part in parts.items()},
        labels={split: _labels(part["label"]) for split, part in parts.items() if part["label"].null_count == 0},
        provenance=about["provenance"],
    )
    if dataset.checksum != about["checksum"]:
        raise ValueError("its pixels do not match its checksum")
    return dataset


def _split_tables(table: Any) -> dict[str, Any]:
    """Cut a table into its splits, which lie one after the other; the checksum finds out if they do not."""
    parts, start = {}, 0
    for split in SPLITS:
        size = pc.sum(pc.equal(table["split"], split)).as_py()
        parts[split] = table.slice(start, size)
        start += size
    return parts


def _pixel_rows(column: Any) -> Images:
    """View a fixed-size binary column as uint8 [n, bytes], without a copy where it is one chunk."""
    array = column.combine_chunks()
    row_bytes = array.type.byte_width
    flat = np.frombuffer(array.buffers()[1], np.uint8, len(array) * row_bytes, array.offset * row_bytes)
    return flat.reshape(len(array), row_bytes)


def _labels(column: Any) -> npt.NDArray[np.int16]:
    """Turn a label column without nulls into int16 [n]."""
    labels: npt.NDArray[np.int16] = column.to_numpy()
    return labels


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` that takes its place on success and vanishes on any failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- A user's own images --------------------------------------------------------------------------


def read_own(path: str | Path, binarization: str) -> Dataset:
    """Read a user's own images: an `.npz` with arrays train, valid and test.

    Args:
        path: the file.
        binarization: `none` for uint8 [n, H, W] of 0 and 1; for gray uint8 [n, H, W] `threshold` (gray >= 128
            is 1) or `bernoulli` (one fixed draw, a pixel being 1 with probability gray/255).

    Raises:
        InputError: if the file or an array in it is not of this kind, or the binarization is unknown.
    """
    path = Path(path)
    if binarization not in _BINARIZERS:
        raise InputError(f"unknown binarization '{binarization}'{nearest(binarization, _BINARIZERS)}")
    arrays = _read_npz(path)
    _check_arrays(str(path), arrays)
    _check_values(str(path), arrays, binarization)
    provenance = {"path": str(path), "binarization": binarization}
    return Dataset.from_images(path.stem, _BINARIZERS[binarization](arrays), provenance=provenance)


def threshold(gray: Mapping[str, Images]) -> dict[str, Images]:
    """Binarise gray images 0..255, uint8 [n, H, W] per split: 128 and above become 1."""
    return {split: (images >= _THRESHOLD).astype(np.uint8) for split, images in gray.items()}


def bernoulli(gray: Mapping[str, npt.NDArray[Any]], white: float = _WHITE) -> dict[str, Images]:
    """Binarise gray images by one fixed draw: a pixel becomes 1 with probability gray/white.

    Args:
        gray: for each of train, valid and test, numbers [n, H, W] from 0 to `white`.
        white: the gray that is always 1.

    Returns:
        For each split, drawn in this order from one random state, uint8 [n, H, W].
    """
    random = np.random.RandomState(_DRAW_SEED)
    return {split: _draw(random, gray[split], white) for split in SPLITS}


def _draw(random: np.random.RandomState, gray: npt.NDArray[Any], white: float) -> Images:
    """Draw one split; some rows at a time, which draws the same numbers and spares memory."""
    drawn = np.empty(gray.shape, np.uint8)
    for start in range(0, len(gray), _DRAW_ROWS):
        part = gray[start : start + _DRAW_ROWS]
        drawn[start : start + _DRAW_ROWS] = random.random_sample(part.shape) < part / white
    return drawn


_BINARIZERS: Mapping[str, Callable[[dict[str, Images]], dict[str, Images]]] = {
    "none": lambda images: images,
    "threshold": threshold,
    "bernoulli": bernoulli,
}


def _read_npz(path: Path) -> dict[str, Images]:
    """Read the arrays train, valid and test of an `.npz`, whatever they are.

    Raises:
        InputError: if the file cannot be read or lacks one of them.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds one bare array: save train, valid and test with numpy.savez_compressed")
        with content:
            for split in SPLITS:
                if split not in content.files:
                    raise InputError(f"{path}: no array '{split}'{nearest(split, content.files)}")
            return {split: content[split] for split in SPLITS}
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give the path of an .npz file") from error
    # What numpy and zipfile raise on files that are no archive, are cut short, damaged, pickled or encrypted.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an .npz of plain arrays ({_reason(error)})") from error


# --- Checks ---------------------------------------------------------------------------------------


def _check_arrays(where: str, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int]:
    """Check that every split is a filled uint8 [n, H, W] of one H and W, and return these.

    Raises:
        InputError: naming `where`, the array and what it should be.
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
            raise InputError(f"{where}: array '{split}' is empty (shape {list(array.shape)}): it needs images")
        sizes[split] = (array.shape[1], array.shape[2])
        if sizes[split] != sizes["train"]:
            got, expected = ("{}x{}".format(*sizes[key]) for key in (split, "train"))
            raise InputError(f"{where}: images of '{split}' are {got}, those of 'train' {expected}: use one size")
    return sizes["train"]


def _check_values(where: str, arrays: Mapping[str, Images], binarization: str) -> None:
    """Check that the values suit the binarization: 0 and 1 for none, gray for the others."""
    if binarization == "none":
        _check_binary(where, arrays)
    elif all(array.max() <= 1 for array in arrays.values()):
        raise InputError(
            f"{where}: arrays hold 0 and 1 only, so they are binary already: use binarization 'none', "
            f"not '{binarization}'"
        )


def _check_binary(where: str, arrays: Mapping[str, Images]) -> None:
    """Check that all values are 0 or 1."""
    for split in SPLITS:
        top = arrays[split].max()
        if top > 1:
            raise InputError(
                f"{where}: array '{split}' has values up to {top}, not only 0 and 1: "
                "for gray images use binarization 'threshold' or 'bernoulli'"
            )


def _row_bytes(height: int, width: int) -> int:
    """Count the bytes of one packed image."""
    return -(-height * width // 8)


def _flat(images: Images) -> Images:
    """View [n, H, W] as [n, H*W]."""
    return images.reshape(len(images), -1)


def _as_int16(split: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Narrow labels to int16.

    Raises:
        ValueError: if that would change them.
    """
    narrow = np.asarray(values).astype(np.int16)
    if not np.array_equal(narrow, values):
        raise ValueError(f"{split} labels do not fit int16")
    return narrow


def _reason(error: Exception) -> str:
    """Say in one line why something failed, without the path that an OSError repeats."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
