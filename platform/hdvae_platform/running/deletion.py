"""Deleting a study: its runs and model in MLflow, its files on the storage, then what the study database knows of it.

In this order: cut off in between, the study is still known, and the same command deletes the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hdvae_platform.search.search import forget_study
from hdvae_platform.store import lease
from hdvae_platform.store.layout import study_marker
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, StudyRecord, connect
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.study_run import delete_runs

_PART = re.compile(r"trial-\d+|data|preflight")
"""What a study has in its folder; trainings of `hdvae train` with its name are beside it, and stay."""


@dataclass(frozen=True)
class Deleted:
    """What a deletion took away: so many runs of MLflow, and a folder."""

    mlflow_runs: int
    folder: str


def delete_study(places: Places, record: StudyRecord) -> Deleted:
    """Delete a study, everywhere. Nobody can run it meanwhile.

    Raises:
        InputError: somebody runs it.
        Unreachable: MLflow is away; the same call deletes it later.
        StorageAway: the storage is; the same call deletes the rest later.
    """
    client, name = Client(places), record.name
    records, driver = Records(connect(places.database)), lease.driver_name()
    storage = Storage(places.storage, places.patience)
    records.take(name, driver, lease.dead(record))
    try:
        with lease.beating(records, name, driver):
            client.unregister(name)
            runs = delete_runs(client, name)
            for part in filter(_PART.fullmatch, storage.list(name)):
                records.check(name)
                storage.delete_folder(f"{name}/{part}")
            storage.delete_file(study_marker(name))
            records.check(name)
            forget_study(places.database, name)
            records.forget(name)
    finally:
        records.release(name, driver)
    return Deleted(runs, storage.address(name))
