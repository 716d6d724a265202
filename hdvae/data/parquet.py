"""Data sets on disk: one Parquet file each, written whole or not at all, and checked whenever it is read."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hdvae.data.dataset import SPLITS, Dataset, Images
from hdvae.errors import InputError, reason_of

FETCH_HINT = "run `hdvae data fetch {}`"
_METADATA_KEY = b"hdvae"


def parquet_path(home: Path, name: str) -> Path:
    """The file of the data set `name` below the folder `home`."""
    return home / "data" / f"{name}.parquet"


def write_parquet(dataset: Dataset, path: Path) -> None:
    """Write a data set to one Parquet file, whole or not at all; missing folders are created.

    Columns: split (dictionary string), index (int32, position within the split), label (int16, null if there is none),
    pixels (fixed-size binary, one bit-packed image). The metadata of the schema has one JSON document under `hdvae`.

    Raises:
        InputError: the file cannot be written. No partial file remains.
    """
    table = _to_table(dataset)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            # Not compressed, since packed rows are small; page checksums protect indices and labels, too.
            pq.write_table(table, file, compression="none", use_dictionary=["split"], write_page_checksum=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason_of(error)}") from error


def read_parquet(path: Path) -> Dataset:
    """Read and check a data set that `write_parquet` wrote. Its rows are views of Arrow's memory.

    Raises:
        InputError: the file cannot be read, is damaged, or is not a data set.
    """
    try:
        table = pq.read_table(path, memory_map=True, partitioning=None, page_checksum_verification=True)
        return _from_table(table)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        hint = FETCH_HINT.format(path.stem)
        raise InputError(f"{path} is damaged or not a data set ({reason_of(error)}): {hint}") from error


def _to_table(dataset: Dataset) -> Any:
    """The data set as an Arrow table, with one split after the other."""
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
    """The label column of one split: null if it has no labels."""
    if split in dataset.labels:
        return pa.array(dataset.labels[split])
    return pa.nulls(dataset.size(split), pa.int16())


def _from_table(table: Any) -> Dataset:
    """The data set of a table.

    Raises:
        ValueError: the content does not match the checksum. Tables of other origin may also raise KeyError, TypeError
            or an Arrow exception.
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
        raise ValueError("the pixels do not match the checksum")
    return dataset


def _split_tables(table: Any) -> dict[str, Any]:
    """The tables of the splits, which lie one after the other; if they do not, the checksum will not match."""
    parts, start = {}, 0
    for split in SPLITS:
        size = pc.sum(pc.equal(table["split"], split)).as_py()
        parts[split] = table.slice(start, size)
        start += size
    return parts


def _pixel_rows(column: Any) -> Images:
    """A fixed-size binary column as uint8 [n, bytes], without a copy if it is one chunk."""
    array = column.combine_chunks()
    row_bytes = array.type.byte_width
    flat = np.frombuffer(array.buffers()[1], np.uint8, len(array) * row_bytes, array.offset * row_bytes)
    return flat.reshape(len(array), row_bytes)


def _labels(column: Any) -> npt.NDArray[np.int16]:
    """A label column without nulls as int16 [n]."""
    labels: npt.NDArray[np.int16] = column.to_numpy()
    return labels


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, which replaces `path` on success and is removed on failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
