"""The records of a study as files that can be read without this package: Parquet, JSON and the study file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import parquet

from hdvae.errors import InputError
from hdvae_platform.analysis.looks import Looks
from hdvae_platform.running.status import study_status
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.per_image import read_per_image
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, StudyRecord
from hdvae_platform.store.storage import Storage, StorageAway

RUNS = pa.schema(
    [
        ("trial", pa.int64()),
        ("seed", pa.int64()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("settings", pa.string()),
        ("step", pa.int64()),
        ("attempts", pa.int64()),
        ("images_per_second", pa.float64()),
        ("memory_peak_mb", pa.float64()),
        ("gpu_memory_peak_mb", pa.float64()),
        ("gpu_utilization_percent", pa.float64()),
        ("error", pa.string()),
        ("checkpoint", pa.string()),
        ("best_checkpoint", pa.string()),
        ("run_id", pa.string()),
    ]
)
"""A row for each run; `settings` is JSON: dotted paths into the experiment → values."""
METRICS = pa.schema(
    [
        ("trial", pa.int64()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)
"""A row for each point of each run, with the time at which it was measured."""


def export(places: Places, record: StudyRecord, out: Path, say: Callable[[str], None]) -> list[Path]:
    """Write all records of a study into a new folder; after an error nothing is there.

    Args:
        places: where the study lives.
        record: the study.
        out: the folder; it may exist if it is empty.
        say: called with a line for each damaged file, which is left out.

    Returns:
        The files, sorted.

    Raises:
        InputError: the folder is not empty, or cannot be made.
        StorageAway: the storage does not answer.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not empty; give a new folder")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as folder:
            made = Path(folder) / "made"
            made.mkdir()
            _write(places, record, made, say)
            made.replace(out)
    except StorageAway:
        raise
    except OSError as fault:
        raise InputError(f"--out {out}: cannot be written: {fault.strerror or fault}") from None
    return sorted(out.iterdir())


def _write(places: Places, record: StudyRecord, out: Path, say: Callable[[str], None]) -> None:
    study = record.as_study()
    storage = Storage(places.storage, say=say)
    (out / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    (out / "history.json").write_text(json.dumps(_history(places, record, storage), indent=1))
    rows = study_status(places, record).trials
    runs = [{**row, "trial": row["number"], "settings": json.dumps(row["params"])} for row in rows]
    parquet.write_table(pa.Table.from_pylist(runs, RUNS), out / "runs.parquet")
    begun = [(row["number"], row["seed"]) for row in rows if row["attempts"]]
    with parquet.ParquetWriter(out / "metrics.parquet", METRICS) as writer:
        for trial, seed in begun:
            writer.write_table(pa.Table.from_pylist(list(_points(storage, study.name, trial, seed)), METRICS))
    images = list(_images(storage, study.name, begun))
    if images:
        parquet.write_table(pa.concat_tables(images, promote_options="default"), out / "images.parquet")


def _history(places: Places, record: StudyRecord, storage: Storage) -> dict[str, Any]:
    """When the study began and with which data and code, how these changed, and the looks at its verdicts."""
    changes = Records(places.database).changes(record.name)
    return {
        "created": datetime.fromtimestamp(record.created, UTC).isoformat(),
        "data_checksum": record.definition["data_checksum"],
        "code": record.code,
        "launches": record.launch,
        "looks": Looks(storage, record.name).records(),
        "changes": [{**vars(one), "time": datetime.fromtimestamp(one.time, UTC).isoformat()} for one in changes],
    }


def _points(storage: Storage, study: str, trial: int, seed: int) -> Iterator[dict[str, Any]]:
    journal = Journal(storage, run_folder(study, trial, seed))
    for step, entry in journal.readable(journal.steps()).items():
        when = datetime.fromtimestamp(entry.time / 1000, UTC)
        for metric, value in {**entry.metrics, **entry.costs}.items():
            yield {"trial": trial, "seed": seed, "step": step, "time": when, "metric": metric, "value": value}


def _images(storage: Storage, study: str, runs: Sequence[tuple[int, int]]) -> Iterator[pa.Table]:
    """The last values per image of the `valid` split, a table for each run."""
    for trial, seed in runs:
        table = read_per_image(storage, run_folder(study, trial, seed), "valid")
        if table is not None:
            table = table.replace_schema_metadata(None)
            for column, value in (("seed", seed), ("trial", trial)):
                table = table.add_column(0, column, pa.array([value] * len(table), pa.int64()))
            yield table
