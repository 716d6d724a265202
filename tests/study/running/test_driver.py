"""The driver by itself, called as Tune calls it; `test_launch.py` has it on a real Ray."""

from __future__ import annotations

import threading

import mlflow
import pytest

from hdvae_platform.running.driver import SILENCE, Driver
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import Search
from hdvae_platform.store.images import load_data
from hdvae_platform.store.records import Records, connect
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import load_study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.tracker import Tracker
from hdvae_platform.training.run import RunSpec, run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def trackers():
    """Those of the drivers; they are closed at the end."""
    made = []
    yield made
    for tracker in made:
        tracker.close(60)


@pytest.fixture
def drive(places, edit, trackers):
    """A driver of the small study with changes, its clock, and what it prints."""

    def made(changes):
        study, clock, lines = load_study(edit(changes)), Clock(), []
        records = Records(connect(places.database))
        records.define(study.name, study.definition(), study.plan(), {})
        records.take(study.name, "test")
        trackers.append(tracker := Tracker(places, print))
        checksum = load_data(study.experiment, places.home).checksum
        tracking = StudyTracking(study, tracker, records, Storage(places.storage), checksum)
        search = Search(study, places.database, records)
        return Driver(study, places, search, tracking, threading.Event(), lines.append, clock), clock, lines

    return made


def test_a_run_of_which_nothing_is_heard_is_told_once(drive):
    driver, clock, lines = drive({"seeds": [0]})
    driver.next_config("a")
    driver.next_config("b")
    driver.reported("a", {"step": 0, "started": True})
    clock.now = SILENCE - 1
    driver.watch()
    assert lines == []
    clock.now = SILENCE + 1
    driver.watch()
    driver.watch()
    assert [line.partition(" · ")[2] for line in lines] == [
        f"nothing heard of trial 1 seed 0 for {SILENCE:.0f} s: it waits for room, or starts slowly"
    ]


def test_a_run_that_ended_is_not_waited_for(drive):
    driver, clock, lines = drive({"seeds": [0]})
    driver.next_config("a")
    driver.ended("a", {"step": 0, "interrupted": True})
    clock.now = 2 * SILENCE
    driver.watch()
    assert not any("nothing heard" in line for line in lines)


def test_elastic_runs_share_what_there_is(drive):
    """Six places for two runs at a time: three each, of which a batch of 32 can use two; then what is left."""
    elastic = {"seeds": [0], "experiment/training/batch_size": 32, "resources": {"elastic": {"most": 8}}}
    driver, _, _ = drive(elastic)
    driver.slots = lambda: 6
    first, second = driver.next_config("a"), driver.next_config("b")
    assert (first["workers"], second["workers"], first["together"]) == (2, 2, True)
    assert driver.next_config("c") is None, "two at a time"
    driver.ended("a", {"step": 10, "interrupted": True})
    driver.slots = lambda: 3
    assert driver.next_config("d")["workers"] == 1
    driver.slots = lambda: 2
    driver.ended("d", {"step": 10, "interrupted": True})
    assert driver.next_config("e") is None, "the other one has both places"


def test_a_run_that_crashes_goes_on_until_it_does_all_the_time(drive, places):
    """Three times without a report in between; a report begins the count anew."""
    driver, _, lines = drive({"seeds": [0]})
    crash = {"step": 0, "crashed": "Traceback\n  File …\nRuntimeError: out of memory\n"}
    for attempt in range(2):
        driver.next_config(f"{attempt}")
        driver.ended(f"{attempt}", crash)
    driver.next_config("2")
    driver.reported("2", {"step": 10, "metrics": {}})
    driver.ended("2", crash)
    for attempt in range(3, 5):
        driver.next_config(f"{attempt}")
        driver.ended(f"{attempt}", crash)
    said = [line.partition(" · ")[2] for line in lines]
    assert said[:-1] == ["trial 0 seed 0: RuntimeError: out of memory; it is started again"] * 4
    assert said[-1] == "trial 0 seed 0 FAILED: RuntimeError: out of memory, 3 times without a report in between"
    assert driver.search.run(0, 0).error == "RuntimeError: out of memory, 3 times without a report in between"
    assert Storage(places.storage).read("small/trial-0000/seed-0/error.txt").decode() == crash["crashed"]


def test_what_is_lost_while_the_study_stops_is_no_death(drive):
    driver, _, lines = drive({"seeds": [0]})
    driver.next_config("a")
    driver.stop.set()
    driver.ended("a", {"step": 0, "lost": "its process was killed"})
    assert (driver.search.run(0, 0).state, driver.search.run(0, 0).error, lines) == ("WAITING", None, [])


@pytest.mark.parametrize(("ended", "status", "versions"), [(1, "KILLED", 0), (2, "FINISHED", 1)])
def test_a_study_that_stops_between_two_runs_is_not_finished(drive, places, trackers, ended, status, versions):
    """When the first has ended and the second was not begun, nothing can be seen of the second."""
    driver, _, _ = drive({"seeds": [0], "space": {"training.learning_rate": {"choices": [0.001, 0.002]}}})
    for trial in range(ended):
        run(RunSpec(**driver.next_config(str(trial))), lambda word: None)
        driver.ended(str(trial), {"step": 20, "completed": True})
    driver.stop.set()
    driver.end_study()
    assert trackers[0].close(60)
    (parent,) = Client(places).find({"hdvae.kind": "study"})
    assert parent.status == status
    registered = mlflow.MlflowClient(places.tracking).search_model_versions("name = 'small'")
    assert len(registered) == versions


def test_workers_that_do_not_start_fail_a_run_in_the_end(drive):
    driver, _, lines = drive({"seeds": [0], "resources": {"workers": 2}, "experiment/training/batch_size": 32})
    how = "Ray Train could not go on: no network"
    for attempt in range(3):
        driver.next_config(f"{attempt}")
        driver.ended(f"{attempt}", {"step": 0, "lost": how})
    assert [line.partition(" · ")[2] for line in lines] == [
        f"trial 0 seed 0: {how}; it is started again",
        f"trial 0 seed 0: {how}; it is started again",
        f"trial 0 seed 0 FAILED: {how}, 3 times without a report in between",
    ]
