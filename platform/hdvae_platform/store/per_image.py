"""The metrics of each image behind an evaluation's means, as Parquet, so that runs can be paired image by image."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from hdvae.training.run_files import standing, written_by
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.layout import PER_IMAGE
from hdvae_platform.store.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

NOTES = b"hdvae"
"""The key of the notes in the metadata of a table."""


def write_per_image(
    attempt: Attempt, split: str, step: int, columns: Mapping[str, Tensor], notes: Mapping[str, Any]
) -> None:
    """Write the values of an evaluation; only these and those of the evaluation before are kept.

    Args:
        attempt: the attempt that writes.
        split: `valid` or `test`.
        step: the step of the evaluation.
        columns: name → values [n], a row for each image: `image`, its index in the split, and metrics in nats.
        notes: JSON-like description of the values.

    Raises:
        Fenced: a newer attempt has begun.
    """
    earlier = _files(attempt.storage, attempt.run, split)
    attempt.write(PER_IMAGE, f"{split}-{step:09d}", ".parquet", as_parquet(columns, notes))
    attempt.check()
    for name in earlier[:-1]:  # a newer attempt may just have taken over the last one
        attempt.storage.delete_file(f"{attempt.run}/{PER_IMAGE}/{name}")


def find_per_image(storage: Storage, run: str, split: str) -> str | None:
    """The file with the values of the latest evaluation of a split; None if there is none."""
    names = _files(storage, run, split)
    return f"{run}/{PER_IMAGE}/{names[-1]}" if names else None


def _files(storage: Storage, run: str, split: str) -> list[str]:
    """The valid files of a split, those of the newest attempt last."""
    names = [name for name in standing(storage, run, PER_IMAGE) if name.startswith(f"{split}-")]
    return sorted(names, key=lambda name: (written_by(name), name))


def as_parquet(columns: Mapping[str, Tensor], notes: Mapping[str, Any]) -> bytes:
    """The table of `write_per_image`, as a Parquet file."""
    table = pa.table({name: values.cpu().numpy() for name, values in columns.items()})
    table = table.replace_schema_metadata({NOTES: json.dumps(dict(notes))})
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def read_per_image(storage: Storage, folder: str, split: str) -> tuple[pa.Table, dict[str, Any]]:
    """The values of the latest evaluation of a split, and their notes.

    Raises:
        FileNotFoundError: there are none.
    """
    name = find_per_image(storage, folder, split)
    if name is None:
        raise FileNotFoundError(f"{folder}: no values of each image of {split}")
    table = parquet.read_table(io.BytesIO(storage.read(name)))
    return table, json.loads(table.schema.metadata[NOTES])
