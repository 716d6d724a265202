from __future__ import annotations

import pytest

from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import Search
from hdvae_platform.store import records as records_module
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.tracker import Tracker


@pytest.fixture
def begin(study_file, places):
    """Begins the first run of the small study with a driver of this name; what its tracker said."""
    study = load_study(study_file)
    records = Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    records.take(study.name, "first")
    assignment = Search(study, places.database, records).next()

    def act():
        said: list[str] = []
        tracker = Tracker(places, said.append)
        tracking = StudyTracking(study, tracker, records, Storage(places.storage), {"hdvae.data_checksum": ""})
        tracking.begin(assignment, study.experiment_at(assignment.params), new=True)
        tracker.close(60)
        return said

    return act


def test_a_first_attempt_makes_a_run(begin, places):
    assert begin() == []
    assert [run.status for run in Client(places).find({"hdvae.kind": "run"})] == ["RUNNING"]


def test_a_driver_that_was_replaced_makes_no_run(begin, places, monkeypatch):
    monkeypatch.setattr(records_module, "EXPIRY", -1.0)
    Records(places.database).take("small", "second")
    assert ["taken" in line or "took" in line for line in begin()] == [True]
    assert list(Client(places).find({"hdvae.kind": "run"})) == []
