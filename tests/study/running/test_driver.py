"""The driver by itself, called as Tune calls it; `test_launch.py` has it on a real Ray."""

from __future__ import annotations

import shutil
import threading

import mlflow
import pytest

from hdvae_platform.running.driver import SILENCE, Driver
from hdvae_platform.running.status import study_status
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import Search
from hdvae_platform.store.images import load_data
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.tracker import Tracker
from hdvae_platform.training.messages import Ended, EndKind, Reported, Resumed, Started, Warned
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec


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
        records = Records(places.database)
        records.define(study.name, study.definition(), study.plan(), {})
        records.take(study.name, "test")
        trackers.append(tracker := Tracker(places, print))
        data_tags = provenance.data_tags(load_data(study.experiment, places.home))
        tracking = StudyTracking(study, tracker, records, Storage(places.storage), data_tags)
        search = Search(study, places.database, records)
        return Driver(study, places, search, tracking, threading.Event(), lines.append, clock), clock, lines

    return made


def test_a_run_of_which_nothing_is_heard_is_told_once(drive):
    driver, clock, lines = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.next_spec("b")
    driver.received("a", Started())
    clock.now = SILENCE - 1
    driver.warn_of_silence()
    assert lines == []
    clock.now = SILENCE + 1
    driver.warn_of_silence()
    driver.warn_of_silence()
    assert [line.partition(" · ")[2] for line in lines] == [
        f"no message from small/1/0 for {SILENCE:.0f} s: it waits for room, or starts slowly"
    ]


def test_a_run_that_ended_is_not_waited_for(drive):
    driver, clock, lines = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.ended("a", Ended(EndKind.INTERRUPTED, step=0))
    clock.now = 2 * SILENCE
    driver.warn_of_silence()
    assert not any("no message" in line for line in lines)


def test_elastic_runs_share_what_there_is(drive):
    """Six places for two runs at a time: three each, of which a batch of 32 can use two; then what is left."""
    elastic = {"seeds": [0], "experiment/training/batch_size": 32, "resources": {"elastic": {"most": 8}}}
    driver, _, _ = drive(elastic)
    driver.use_cluster(lambda: 6, 2, elsewhere=False)
    first, second = driver.next_spec("a"), driver.next_spec("b")
    assert (first["workers"], second["workers"], first["grouped"]) == (2, 4, True)
    assert driver.next_spec("c") is None, "two at a time"
    driver.ended("a", Ended(EndKind.INTERRUPTED, step=10))
    driver.use_cluster(lambda: 5, 2, elsewhere=False)
    assert driver.next_spec("d")["workers"] == 1
    driver.use_cluster(lambda: 4, 2, elsewhere=False)
    driver.ended("d", Ended(EndKind.INTERRUPTED, step=10))
    assert driver.next_spec("e") is None, "the other one has all four places"


def test_a_run_that_crashes_goes_on_until_it_does_all_the_time(drive, places):
    """Three times without a report in between; a report begins the count anew."""
    driver, _, lines = drive({"seeds": [0]})
    crash = Ended(EndKind.CRASHED, text="Traceback\n  File …\nRuntimeError: out of memory\n")
    for attempt in range(2):
        driver.next_spec(f"{attempt}")
        driver.ended(f"{attempt}", crash)
    driver.next_spec("2")
    driver.received("2", Reported(10, {}))
    driver.ended("2", crash)
    for attempt in range(3, 5):
        driver.next_spec(f"{attempt}")
        driver.ended(f"{attempt}", crash)
    said = [line.partition(" · ")[2] for line in lines]
    assert said[:-1] == ["small/0/0: RuntimeError: out of memory; it is started again"] * 4
    assert said[-1] == "small/0/0 failed: RuntimeError: out of memory, 3 times without a report in between"
    assert driver.search.run(0, 0).error == "RuntimeError: out of memory, 3 times without a report in between"
    assert Storage(places.storage).read("small/trial-0000/seed-0/error.txt").decode() == crash.text


def test_what_is_lost_while_the_study_stops_is_no_death(drive):
    driver, _, lines = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.stop.set()
    driver.ended("a", Ended(EndKind.WORKERS_LOST, text="its process was killed"))
    assert (driver.search.run(0, 0).state, driver.search.run(0, 0).error, lines) == ("WAITING", None, [])


@pytest.mark.parametrize(("ended", "status", "versions"), [(1, "KILLED", 0), (2, "FINISHED", 1)])
def test_a_study_that_stops_between_two_runs_is_not_finished(drive, places, trackers, ended, status, versions):
    """When the first has ended and the second was not begun, nothing can be seen of the second."""
    driver, _, _ = drive({"seeds": [0], "space": {"training.learning_rate": {"choices": [0.001, 0.002]}}})
    for trial in range(ended):
        run(RunSpec(**driver.next_spec(str(trial))), lambda word: None)
        driver.ended(str(trial), Ended(EndKind.COMPLETED))
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
        driver.next_spec(f"{attempt}")
        driver.ended(f"{attempt}", Ended(EndKind.WORKERS_LOST, text=how))
    assert [line.partition(" · ")[2] for line in lines] == [
        f"small/0/0: {how}; it is started again",
        f"small/0/0: {how}; it is started again",
        f"small/0/0 failed: {how}, 3 times without a report in between",
    ]


def test_a_second_request_ends_the_wait_for_runs(drive):
    driver, _, _ = drive({"seeds": [0]})
    driver.next_spec("a")
    assert not driver.should_end_runs()
    driver.request_stop()
    assert (driver.interrupted, driver.stop.is_set(), driver.is_over()) == (True, True, True)
    assert not driver.should_end_runs(), "its run has some time to end by itself"
    assert driver.next_spec("b") is None
    driver.request_stop()
    assert driver.should_end_runs()


def test_a_signal_hurries_a_study_that_was_stopped_by_command(drive):
    driver, _, _ = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.stop.set()  # as its heartbeat does after `study stop`
    assert not driver.should_end_runs()
    driver.request_stop()
    assert driver.should_end_runs()


def test_a_fault_of_housekeeping_is_told_once_in_a_row_and_the_study_goes_on(drive):
    driver, _, lines = drive({"seeds": [0]})

    def release():
        raise RuntimeError("the head does not answer")

    for act in (release, release, list, release):
        driver.tidy(act)
    driver.raise_fault()
    assert not driver.stop.is_set()
    assert [line.partition(" · ")[2] for line in lines] == [
        "resources of ended runs could not be released, which is tried again: RuntimeError: the head does not answer"
    ] * 2


def test_how_far_a_run_came_is_recorded_at_its_end(drive, places):
    """Its status needs none of its files then."""
    driver, _, _ = drive({"seeds": [0]})
    run(RunSpec(**driver.next_spec("a")), lambda word: None)
    driver.ended("a", Ended(EndKind.COMPLETED))
    summary = driver.search.run(0, 0).summary
    assert (summary["attempts"], summary["step"]) == (1, 20)
    assert summary["checkpoint"] == "checkpoints/000000020-0001.safetensors"
    assert summary["costs"].keys() == {"train/images_per_second", "system/memory_peak_mb"}
    shutil.rmtree(places.storage)
    row = study_status(places, Records(places.database).study("small")).trials[0]
    folder = f"{places.storage}/small/trial-0000/seed-0"
    assert (row["step"], row["checkpoint"]) == (20, f"{folder}/{summary['checkpoint']}")


def test_a_run_that_ended_is_not_waited_for_when_the_study_stops(drive):
    driver, _, lines = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.request_stop()
    assert not driver.should_end_runs()
    driver.ended("a", Ended(EndKind.INTERRUPTED, step=7))
    assert driver.should_end_runs()
    assert (driver.search.run(0, 0).state, lines) == ("WAITING", [])


def test_a_storage_that_is_away_ends_the_study(drive):
    driver, _, _ = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.raise_fault()
    driver.ended("a", Ended(EndKind.STORAGE_AWAY, text="s3://bucket does not answer"))
    assert driver.stop.is_set()
    assert driver.search.run(0, 0).state == "WAITING"
    with pytest.raises(StorageAway, match="s3://bucket does not answer"):
        driver.raise_fault()


def test_a_run_whose_process_leaves_is_started_again_and_no_death_is_counted(drive):
    driver, _, lines = drive({"seeds": [0]})
    for attempt in range(1, 6):
        assert driver.next_spec("a")["attempt"] == attempt
        driver.ended("a", Ended(EndKind.INTERRUPTED, step=7))
    said = [line.partition(" · ")[2] for line in lines]
    assert said == ["small/0/0: its process was told to end, at step 7; it is started again"] * 5


def test_a_run_that_was_shut_out_or_stopped_waits(drive):
    driver, _, lines = drive({"seeds": [0]})
    for last in (Ended(EndKind.FENCED, text="attempt 2 has taken over"), Reported(10, {}), None):
        driver.next_spec("a")
        driver.ended("a", last)
        assert driver.search.run(0, 0).state == "WAITING"
        driver.search.reissue(0, 0)
    assert lines == []


def test_warnings_are_told_and_lasting_ones_recorded(drive):
    driver, _, lines = drive({"seeds": [0]})
    driver.next_spec("a")
    driver.received("a", Warned("the storage is full"))
    assert driver.search.run(0, 0).error is None
    driver.received("a", Warned("skipped a damaged checkpoint", lasting=True))
    assert driver.search.run(0, 0).error == "skipped a damaged checkpoint"
    driver.received("a", Resumed(10))
    assert [line.partition(" · ")[2] for line in lines] == [
        "small/0/0: the storage is full",
        "small/0/0: skipped a damaged checkpoint",
        "small/0/0 goes on from step 10",
    ]


def test_a_pruned_run_is_told_with_its_step_and_a_confirmation_as_one(drive):
    changes = {"seeds": [0], "search": {"pruner": "asha"}, "experiment/training/steps": 40}
    driver, _, lines = drive(
        {**changes, "space": {"training.freebits": {"choices": [1.0, 2.0]}}, "confirm": {"seeds": 1}}
    )
    driver.use_cluster(lambda: 4, 4, elsewhere=False)
    reports = {"a": Reported(10, {"valid/elbo": -1.0}), "b": Reported(10, {"valid/elbo": -5.0})}
    pruned = {}
    for trial_id, report in reports.items():
        driver.next_spec(trial_id)
        assert not driver.should_prune(trial_id, Started())
        pruned[trial_id] = driver.should_prune(trial_id, report)
        driver.received(trial_id, report)
    assert pruned == {"a": False, "b": True}
    driver.ended("b", reports["b"])
    driver.search.finish(0, 0, -1.0)
    driver.ended("a", None)
    driver.next_spec("c")
    driver.received("c", Warned("it is a winner"))
    said = [line.partition(" · ")[2].partition(" · ")[0] for line in lines]
    seed = driver.study.confirmation_seeds()[0]
    assert said[1:] == [
        "small/1/0 pruned at step 10, valid/elbo -5.00",
        f"small/0/{seed} (confirmation): it is a winner",
    ]


def test_a_fault_of_the_drivers_own_keeps_the_first_and_stops_the_study(drive):
    driver, _, _ = drive({"seeds": [0]})
    assert driver.guard(lambda: 3) == 3
    for fault in (KeyError("first"), ValueError("second")):

        def act(fault=fault):
            raise fault

        assert driver.guard(act) is None
    assert driver.stop.is_set()
    with pytest.raises(KeyError, match="first"):
        driver.raise_fault()
