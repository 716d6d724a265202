"""The metrics of each image behind an evaluation's means, as Parquet, so that runs can be paired image by image."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from hdvae.errors import Damaged
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
    stem = f"{split}-{step:09d}"
    notes = {**notes, "run": attempt.run, "file": attempt.file(PER_IMAGE, stem, ".parquet")}
    attempt.write(PER_IMAGE, stem, ".parquet", as_parquet(columns, notes))
    attempt.check()
    for name in earlier[:-1]:  # a newer attempt may just have taken over the last one
        attempt.storage.delete_file(f"{attempt.run}/{PER_IMAGE}/{name}")


def find_per_image(storage: Storage, run: str, split: str) -> bytes | None:
    """The file with the values of the latest evaluation of a split; None if there is none that can be read."""
    found = _newest(storage, run, split)
    return None if found is None else found[0]


def read_per_image(storage: Storage, run: str, split: str) -> pa.Table | None:
    """The values of the latest evaluation of a split; None if there is none that can be read."""
    found = _newest(storage, run, split)
    return None if found is None else found[1]


def _newest(storage: Storage, run: str, split: str) -> tuple[bytes, pa.Table] | None:
    """The newest file of a split that is whole, and its table; the user is told of others."""
    for name in reversed(_files(storage, run, split)):
        path = f"{run}/{PER_IMAGE}/{name}"
        try:
            data = storage.read(path)
            return data, _checked(data, storage.address(path), run, f"{PER_IMAGE}/{name}")
        except Damaged as fault:
            storage.warn(f"{fault}; it is passed over")
    return None


def _checked(data: bytes, address: str, run: str, file: str) -> pa.Table:
    """The table in a file.

    Raises:
        Damaged: it is not what was written, or belongs elsewhere.
    """
    try:
        table = parquet.read_table(io.BytesIO(data))
        notes = json.loads(table.schema.metadata[NOTES])
        whole = notes.pop("sha256") == _digest(table, notes)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{address} is damaged: it is not what was written") from None
    if not whole:
        raise Damaged(f"{address} is damaged: its checksum differs")
    if (notes["run"], notes["file"]) != (run, file):
        raise Damaged(f"{address} belongs elsewhere: it was written as {notes['run']}/{notes['file']}")
    return table


def _digest(table: pa.Table, notes: Mapping[str, Any]) -> str:
    """The checksum of a table and its notes."""
    digest = hashlib.sha256(json.dumps(dict(notes), sort_keys=True).encode())
    for name in table.column_names:
        column = table[name].to_numpy()
        digest.update(f"{name} {column.dtype} {len(column)}".encode() + column.tobytes())
    return digest.hexdigest()


def _files(storage: Storage, run: str, split: str) -> list[str]:
    """The valid files of a split, those of the newest attempt last."""
    names = [name for name in standing(storage, run, PER_IMAGE, run) if name.startswith(f"{split}-")]
    return sorted(names, key=lambda name: (written_by(name), name))


def as_parquet(columns: Mapping[str, Tensor], notes: Mapping[str, Any]) -> bytes:
    """The table of `write_per_image`, as a Parquet file."""
    table = pa.table({name: values.cpu().numpy() for name, values in columns.items()})
    about = {**notes, "sha256": _digest(table, notes)}
    table = table.replace_schema_metadata({NOTES: json.dumps(about)})
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()
