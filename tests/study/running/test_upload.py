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


def test_mlflow_is_told_which_trials_are_feasible(edit, places):
    changes = {"search/constraints": {"valid/kl": {"at_most": 1.0}}, "seeds": [0], "search/trials": 2}
    study = load_study(edit(changes))
    records = Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    records.take(study.name, "this test")
    search, tracker = Search(study, places.database, records), Tracker(places, print)
    tracking = StudyTracking(study, tracker, records, Storage(places.storage), {"hdvae.data_checksum": ""})
    for kl in (2.0, 0.5):
        run = search.next()
        tracking.begin(run, study.experiment_at(run.params), new=True)
        tracking.end(run, search.finish(run.trial, run.seed, -1.0, kl).state)
    tracking.end_study(search.runs(), done=True)
    assert tracker.close(60)
    found = {run.tags.get("hdvae.trial"): run for run in Client(places).find({"hdvae.study": "small"})}
    assert [found[trial].tags["hdvae.feasible"] for trial in ("0", "1", None)] == ["false", "true", "1 of 2 trials"]
    assert found[None].tags["hdvae.constraints"] == "valid/kl at most 1"
    assert found[None].params["constraints.valid/kl.at_most"] == "1.0"
