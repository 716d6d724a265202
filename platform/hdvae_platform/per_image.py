"""The values of each image behind an evaluation's means, as Parquet: runs can be paired image by image later."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from torch import Tensor

from hdvae_platform.storage import Storage

NOTES = b"hdvae"
"""Key of the table's metadata under which its notes are."""


def per_image_name(split: str) -> str:
    """Where the latest values of a split are, below the folder of a run."""
    return f"per_image/{split}.parquet"


def write_per_image(
    storage: Storage, folder: str, split: str, columns: Mapping[str, Tensor], notes: Mapping[str, Any]
) -> None:
    """Keep the values of the latest evaluation, in place of those of the one before.

    Args:
        storage: of the run.
        folder: of the run.
        split: `valid` or `test`.
        columns: a row for each image: `image`, its place in the split, and metrics by name, nats.
        notes: JSON-like; what the values are of.
    """
    storage.write(f"{folder}/{per_image_name(split)}", as_parquet(columns, notes))


def as_parquet(columns: Mapping[str, Tensor], notes: Mapping[str, Any]) -> bytes:
    """The table of `write_per_image` as a file."""
    table = pa.table({name: values.cpu().numpy() for name, values in columns.items()})
    table = table.replace_schema_metadata({NOTES: json.dumps(dict(notes))})
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def read_per_image(storage: Storage, folder: str, split: str) -> tuple[pa.Table, dict[str, Any]]:
    """The table and its notes; FileNotFoundError if there is none."""
    table = parquet.read_table(io.BytesIO(storage.read(f"{folder}/{per_image_name(split)}")))
    return table, json.loads(table.schema.metadata[NOTES])
