"""The result of a finished study, kept beside its report: showing it again needs neither Ray nor torch nor MLflow.

The file holds a fingerprint of everything that the result depends on. Where the fingerprint differs, or the file is
missing or damaged, the study is launched as usual, which makes the result again. Metrics that `hdvae evaluate` adds to
MLflow later are not part of the result; `hdvae compare` shows them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hdvae.errors import InputError
from hdvae.training.sealed import seal, unseal
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import REPORT_PAGE, RESULT, report_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, Run, StudyRecord
from hdvae_platform.store.storage import write_atomically
from hdvae_platform.study.settled import settled
from hdvae_platform.study.study import Study
from hdvae_platform.tracking import provenance


@dataclass(frozen=True)
class Result:
    """What is shown of a study at its end.

    Attributes:
        text: claim, table of arms, confirmations and verdicts, as printed.
        document: the same as JSON-like values.
    """

    text: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study and its result."""

    runs: Sequence[Run]
    result: Result


def kept_result(study: Study, places: Places) -> FinishedStudy | None:
    """The kept result of a study, if nothing that it depends on has changed; else None.

    Raises:
        InputError: the data set is not there, or the study database cannot be reached.
    """
    folder = report_folder(places.home, study.name)
    kept = _read(folder / RESULT, study.name)
    if kept is None or not (folder / REPORT_PAGE).exists():
        return None
    try:
        records = Records(places.database)
        record, runs = records.study(study.name), records.runs(study.name)
    except SQLAlchemyError:
        return None  # the launch meets the same error, and reports it
    if record is None or record.deleting or kept["fingerprint"] != _fingerprint(study, places, record, runs):
        return None
    return FinishedStudy(runs, Result(kept["text"], kept["document"]))


def keep_result(study: Study, places: Places, result: Result) -> None:
    """Keep the result of a study that is finished, logged completely and reported.

    Raises:
        OSError: the file cannot be written.
    """
    records = Records(places.database)
    record, runs = records.study(study.name), records.runs(study.name)
    assert record is not None
    kept = {"fingerprint": _fingerprint(study, places, record, runs), **vars(result)}
    write_atomically(report_folder(places.home, study.name) / RESULT, seal(study.name, RESULT, kept))


def _read(file: Path, study: str) -> dict[str, Any] | None:
    """A kept result; None if there is none that can be read, or it is damaged."""
    try:
        return unseal(file.read_bytes(), str(file), RESULT, study).content
    except (OSError, InputError):
        return None


def _fingerprint(study: Study, places: Places, record: StudyRecord, runs: Sequence[Run]) -> str:
    """A checksum of what a result depends on: the study file, its data, the code, what is recorded, and the stores."""
    study = settled(study, record.as_study())
    parts = {
        "definition": study.definition(),
        "plan": study.plan(),
        "data": load_data(study.experiment, places.home).checksum,
        "code": provenance.code()["sources"],
        "recorded": [record.definition, record.plan, record.code["sources"], record.created],
        "runs": [{**vars(run), "also": dict(run.also)} for run in runs],
        "stores": [places.database, places.tracking, places.storage],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
