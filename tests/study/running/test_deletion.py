"""Deleting a study of simulated runs, beside another one that stays."""

from __future__ import annotations

import pytest

from benchmarks.trials import simulation
from hdvae.errors import InputError
from hdvae_platform.running.deletion import delete_study
from hdvae_platform.running.launch import Launch, run_study
from hdvae_platform.running.status import study_state
from hdvae_platform.search.search import Search
from hdvae_platform.search.trials import known_trials
from hdvae_platform.store import records as records_module
from hdvae_platform.store.attempts import Attempt, Fenced
from hdvae_platform.store.layout import report_folder, run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable


@pytest.fixture
def done(tmp_path, database):
    """A study of four trials that has ended."""
    made = simulation(tmp_path / "many", database, "random", 4, None)
    assert len(list(made.trials())) == 4
    made.end()
    return made


def test_nothing_of_it_is_left_and_it_can_begin_anew(done, tmp_path):
    places, name = done.places, done.study.name
    records = Records(places.database)
    records.define("other", done.study.definition(), done.study.plan(), {})
    Storage(places.storage).write("other/file", b"stays")
    known = records.study(name)
    worker = Attempt(Storage(places.storage), run_folder(name, 0, 0), 1)
    Client(places).show_study(name, {})
    deleted = delete_study(places, known)
    assert (deleted.mlflow_runs, deleted.folder) == (5, f"{places.storage}/{name}")
    assert [one.name for one in records.studies()] == ["other"]
    assert (records.runs(name), known_trials(done.study, places.database)) == ([], [])
    assert list(Client(places).find({"hdvae.study": name})) == []
    assert "viewStateShareKey" not in Client(places).runs_page(name)
    assert Storage(places.storage).list("many") == []
    with pytest.raises(Fenced, match="attempt 1 is gone: the study was deleted"):
        worker.write("journal", "000000010", ".json", b"late")
    assert Storage(places.storage).list("many") == []
    assert Storage(places.storage).list("other") == ["file"]

    records.define(name, done.study.definition(), done.study.plan(), {})
    records.take(name, "new")
    assignment = Search(done.study, places.database, records).next()
    assert (assignment.trial, assignment.attempt) == (0, 2), "numbers go on: 1 is a number of the deleted study's"
    Attempt(Storage(places.storage), run_folder(name, 0, 0), assignment.attempt).begin()
    with pytest.raises(Fenced, match="attempt 2 has taken over from attempt 1"):
        worker.write("journal", "000000010", ".json", b"late")
    with pytest.raises(Fenced):
        done.records.set_run(name, 0, 0, state="FAIL")
    assert [change.what for change in records.changes(name)] == ["deleted"]


@pytest.fixture
def half_deleted(done, monkeypatch):
    """The same, with a deletion that was interrupted at its second folder."""
    deleted, delete = [], Storage.delete_folder

    def away(self, name):
        deleted.append(name)
        if len(deleted) > 1:
            raise StorageAway("the storage does not answer")
        delete(self, name)

    page = report_folder(done.places.home, "many") / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("a report")
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete_folder", away)
        with pytest.raises(StorageAway):
            delete_study(done.places, done.records.study("many"))
    assert study_state(done.places, done.records.study("many")).state == "deleting"
    assert page.exists()
    return done


def test_a_deletion_that_was_interrupted_is_ended_by_the_next(half_deleted):
    places = half_deleted.places
    delete_study(places, half_deleted.records.study("many"))
    assert half_deleted.records.study("many") is None
    assert Storage(places.storage).list("many") == []
    assert not report_folder(places.home, "many").exists()


def test_a_launch_ends_the_deletion_first_and_begins_anew(half_deleted, monkeypatch):
    """Runs without files would be called done, at step 0."""
    places, said = half_deleted.places, []
    monkeypatch.chdir(places.home)  # where its images are
    with pytest.raises(InputError, match="nothing answers there"):  # refused, once it would train
        run_study(half_deleted.study, places, said.append, Launch(address="127.0.0.1:1"))
    assert "the deletion of study many was interrupted, and is ended first" in said
    assert (half_deleted.records.studies(), half_deleted.records.runs("many")) == ([], [])
    assert Storage(places.storage).list("many") == []


def test_trainings_of_the_same_name_stay(done):
    """`hdvae train` with the same file leaves its checkpoints beside the study's."""
    storage = Storage(done.places.storage)
    storage.write("many/train-0123456789abcdef-seed-0/checkpoints/file", b"stays")
    delete_study(done.places, done.records.study("many"))
    assert storage.list("many") == ["train-0123456789abcdef-seed-0"]


def test_a_registered_model_goes_too(done):
    client = Client(done.places)
    client._client.create_registered_model("many")
    delete_study(done.places, done.records.study("many"))
    assert list(client._client.search_registered_models()) == []


def test_a_study_that_is_being_run_stays(done):
    done.records.take(done.study.name, "somebody")
    with pytest.raises(InputError, match="is being run by somebody"):
        delete_study(done.places, done.records.study(done.study.name))
    assert len(list(Client(done.places).find({"hdvae.study": done.study.name}))) == 5


def test_a_driver_that_slept_through_it_can_change_nothing(done, monkeypatch):
    done.records.take(done.study.name, "asleep")
    monkeypatch.setattr(records_module, "EXPIRY", -1.0)
    delete_study(done.places, done.records.study(done.study.name))
    with pytest.raises(Fenced):
        done.records.set_run(done.study.name, 0, 0, state="FAIL")


def test_nothing_is_deleted_while_mlflow_is_away(done):
    away = Places(**{**vars(done.places), "tracking": "http://127.0.0.1:1"})
    with pytest.raises(Unreachable):
        delete_study(away, done.records.study(done.study.name))
    assert len(done.records.runs(done.study.name)) == 4
    assert done.records.study(done.study.name).driver is None


def test_the_command_asks_first(done, hdvae, monkeypatch):
    for name, value in (("HDVAE_STUDY_DB", done.places.database), ("MLFLOW_TRACKING_URI", done.places.tracking)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HDVAE_STORAGE", done.places.storage)
    asked = hdvae("study", "delete", "many")
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "delete many (finished, 4 of 4 runs done)? give --yes to confirm it without a terminal" in asked.stderr
    sure = hdvae("study", "delete", "many", "--yes")
    assert (sure.returncode, sure.stderr) == (0, "")
    assert sure.stdout.startswith(f"deleted many: {done.places.storage}/many, its records and 5 MLflow runs")
    again = hdvae("study", "delete", "many", "--yes")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "no study many" in again.stderr
