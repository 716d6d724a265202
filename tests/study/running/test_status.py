"""How many runs a study will have, and whether there is something left to do, without training any."""

from __future__ import annotations

import time

import pytest
import torch

from hdvae.training.loop import Report
from hdvae.training.snapshot import Snapshot
from hdvae_platform.cli import run as hdvae
from hdvae_platform.running.status import StudyState, study_state, study_status
from hdvae_platform.search.search import Search
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.run_summary import read_summary
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.training.session import RunSession

ARMS = {"space": {"training.freebits": {"choices": [1.0, 2.0, 3.0]}}}


@pytest.fixture
def begin(tmp_path, edit, monkeypatch):
    """A search on the places of a home, and the status as it is seen there."""
    places = Places.under(tmp_path / "home")

    def new(changes):
        study = load_study(edit({**ARMS, **changes}))
        records = Records(places.database)
        records.define(study.name, study.definition(), study.plan(), {})

        def status():
            found, state = (look(places, records.study(study.name)) for look in (study_status, study_state))
            assert state == StudyState(**{name: getattr(found, name) for name in vars(state)})
            return found.state, found.complete, found.pruned, found.total

        return Search(study, places.database, records), status

    return new


def finish(search, count):
    for _ in range(count):
        run = search.next()
        search.finish(run.trial, run.seed, -float(run.trial))


def test_a_study_is_finished_when_its_winners_are_confirmed(begin):
    search, status = begin({"confirm": {"top": 2, "seeds": 2}})
    assert status() == ("interrupted", 0, 0, 10)
    finish(search, 6)
    assert status() == ("interrupted", 6, 0, 10)
    finish(search, 3)
    assert status() == ("interrupted", 9, 0, 10)
    finish(search, 1)
    assert status() == ("finished", 10, 0, 10)
    assert search.total_runs() == 10


def test_a_pruned_trial_has_one_run(begin):
    search, status = begin({"search": {"pruner": "asha"}, "experiment/training/steps": 40})
    assert status() == ("interrupted", 0, 0, 6)
    first, second = search.next(), search.next()
    search.report(first.trial, first.seed, 10, -1.0)
    assert search.report(second.trial, second.seed, 10, -2.0)
    assert status() == ("interrupted", 0, 1, 5)
    search.finish(first.trial, first.seed, -1.0)
    finish(search, 3)
    assert status() == ("finished", 4, 1, 5)
    assert search.total_runs() == 5


def test_trials_that_the_hours_did_not_allow_are_not_to_come(begin, monkeypatch):
    search, status = begin({"search": {"hours": 1}})
    finish(search, 2)
    assert status() == ("interrupted", 2, 0, 6)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert search.next() is None
    assert status() == ("finished", 2, 0, 2)


def test_winners_are_different_sets(begin):
    search, status = begin({"search": {"method": "random", "trials": 7}, "confirm": {"top": 5, "seeds": 2}})
    assert status() == ("interrupted", 0, 0, 12), "the space has three"
    finish(search, 12)
    assert status() == ("finished", 12, 0, 12)
    assert search.is_done()


def test_hours_alone_limit_a_sampled_search(begin, monkeypatch):
    search, status = begin({"search": {"method": "random", "hours": 1}})
    finish(search, 2)
    assert status()[0] == "interrupted"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert status() == ("finished", 2, 0, 2)


def test_a_run_under_way(tmp_path, edit):
    """Step, checkpoints and time left as the storage has them; an attempt is timed by its own reports alone."""
    places = Places.under(tmp_path / "home")
    changes = {"seeds": [0], "experiment/training/steps": 100, "experiment/evaluation/every": 10}
    study = load_study(edit({**ARMS, **changes}))
    records = Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    records.take(study.name, "this test")
    search = Search(study, places.database, records)

    def row():
        return study_status(places, records.study(study.name)).trials[0]

    def begin():
        run = search.next()
        attempt = Attempt(Storage(places.storage), run_folder(study.name, run.trial, run.seed), run.attempt)
        attempt.begin()
        return RunSession(attempt, lambda message: None)

    def report(session, step, elbo):
        image = {"image": torch.tensor([0])}
        made = Report(step, {"valid/elbo": elbo}, image, {"train/images_per_second": 100.0 * step})
        session.report(made, lambda: Snapshot({"w": torch.zeros(1)}, {"step": step}))

    search.begin()
    waiting = row()
    assert (waiting["state"], waiting["step"], waiting["checkpoint"], waiting["seconds_left"]) == (
        "WAITING",
        0,
        None,
        None,
    )
    session = begin()
    report(session, 10, -1.0)
    assert (row()["state"], row()["step"], row()["seconds_left"]) == ("RUNNING", 10, None)
    assert (row()["images_per_second"], row()["memory_peak_mb"]) == (1000.0, None)
    time.sleep(0.5)
    report(session, 20, -2.0)
    left, known = row()["seconds_left"], Journal(Storage(places.storage), run_folder(study.name, 0, 0))
    needed = 8 * (known.entry(20).time - known.entry(10).time) / 1000
    since = time.time() - known.entry(20).time / 1000
    assert needed - since - 0.01 <= left <= needed
    assert needed >= 8 * 0.5
    assert row()["checkpoint"].endswith("checkpoints/000000020-0001.safetensors")
    assert row()["best_checkpoint"].endswith("checkpoints/000000010-0001.safetensors")

    search.note(0, 0, "its process was killed")
    search.interrupt(0, 0)
    search = Search(study, places.database, records)
    session = begin()
    session.save(25, Snapshot({"w": torch.zeros(1)}, {"step": 25}))
    report(session, 30, -3.0)
    again = row()
    assert (again["step"], again["attempts"], again["seconds_left"]) == (30, 2, None)
    assert again["error"] == "its process was killed"
    search.finish(0, 0, -3.0)
    assert (row()["state"], row()["error"], row()["seconds_left"]) == ("COMPLETE", None, None)


def test_nothing_runs_without_a_driver(tmp_path, edit):
    places = Places.under(tmp_path / "home")
    study = load_study(edit(ARMS))
    records = Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    Search(study, places.database, records).next()
    row = study_status(places, records.study(study.name)).trials[0]
    assert (row["state"], row["attempts"], row["seconds_left"]) == ("WAITING", 1, None)


@pytest.mark.parametrize("reports", [3, 12])
def test_the_requests_of_a_status_are_bounded_for_an_unfinished_run_and_none_for_others(
    tmp_path, edit, monkeypatch, reports
):
    places = Places.under(tmp_path / "home")
    changes = {"seeds": [0], "experiment/training/steps": 120, "experiment/evaluation/every": 10}
    study = load_study(edit({**ARMS, **changes}))
    records = Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    records.take(study.name, "this test")
    search, goal = Search(study, places.database, records), Goal()
    for trial in range(2):
        run = search.next()
        folder = run_folder(study.name, run.trial, run.seed)
        attempt = Attempt(Storage(places.storage), folder, run.attempt)
        attempt.begin()
        session = RunSession(attempt, lambda message: None)
        for step in range(10, 10 * reports + 1, 10):
            made = Report(step, {"valid/elbo": -float(step)}, {"image": torch.tensor([0])}, {})
            session.report(made, lambda step=step: Snapshot({"w": torch.zeros(1)}, {"step": step}))
        if trial == 0:
            search.finish(run.trial, run.seed, -1.0)
            search.summarise(run.trial, run.seed, read_summary(Storage(places.storage), folder, 1, goal)[0])
    asked = []

    class Counted(Storage):
        def list(self, folder):
            asked.append(folder)
            return super().list(folder)

        def read(self, name):
            asked.append(name)
            return super().read(name)

    monkeypatch.setattr("hdvae_platform.running.status.Storage", Counted)
    done, live, waiting = study_status(places, records.study(study.name)).trials
    assert {request.split("/")[1] for request in asked} == {"trial-0001"}
    assert len(asked) <= 10
    assert (done["state"], live["state"], waiting["state"]) == ("COMPLETE", "RUNNING", "WAITING")
    for row in (done, live):
        assert row["step"] == 10 * reports
        assert row["checkpoint"].endswith(f"{10 * reports:09d}-0001.safetensors")
        assert row["best_checkpoint"].endswith("000000010-0001.safetensors")
    assert (done["seconds_left"], waiting["checkpoint"]) == (None, None)


def test_a_study_is_listed_and_stopped_while_the_storage_is_away(tmp_path, edit, monkeypatch, capsys):
    """Of all times then: these commands ask the study database alone."""
    places = Places.under(tmp_path / "home")
    study = load_study(edit(ARMS))
    records = Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    Search(study, places.database, records).next()
    records.take(study.name, "this test")

    def away(*arguments, **options):
        raise AssertionError("the storage was asked")

    monkeypatch.setattr("hdvae_platform.running.status.Storage", away)
    assert hdvae(["study", "list", "--home", str(places.home)]) == 0
    assert "running" in capsys.readouterr().out
    assert hdvae(["study", "stop", study.name, "--home", str(places.home)]) == 0
    assert "was asked to stop" in capsys.readouterr().out
