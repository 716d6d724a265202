"""Deleting a study: its runs and model in MLflow, its files and its report, then its records in the study database.

The records say first that the study is being deleted, and go last: after an interruption the next `study delete` or
`study run` ends the deletion.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from hdvae_platform.search.trials import forget_study
from hdvae_platform.store import lease
from hdvae_platform.store.layout import is_part_of_study, report_folder, study_marker
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, StudyRecord
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.study_run import delete_runs


@dataclass(frozen=True)
class Deleted:
    """What was deleted: a number of MLflow runs, and the address of a folder."""

    mlflow_runs: int
    folder: str


def delete_study(places: Places, record: StudyRecord) -> Deleted:
    """Delete a study everywhere. Nobody can run it meanwhile.

    Raises:
        InputError: another driver runs it.
        Unreachable: MLflow does not answer; the same call deletes it later.
        StorageAway: the storage does not answer; the same call deletes the rest later.
    """
    client, name = Client(places), record.name
    records, driver = Records(places.database), lease.driver_name()
    storage = Storage(places.storage, places.patience)
    records.take(name, driver, lease.dead(record))
    try:
        with lease.beating(records, name, driver):
            records.begin_deletion(name)
            client.unregister(name)
            client.forget_view(name)
            runs = delete_runs(client, name)
            for part in filter(is_part_of_study, storage.list(name)):
                records.check(name)
                storage.delete_folder(f"{name}/{part}")
            storage.delete_file(study_marker(name))
            _delete_report(places, name)
            records.check(name)
            forget_study(places.database, name)
            records.forget(name)
    finally:
        records.release(name, driver)
    return Deleted(runs, storage.address(name))


def _delete_report(places: Places, name: str) -> None:
    folder = report_folder(places.home, name)
    if folder.exists():
        shutil.rmtree(folder)
