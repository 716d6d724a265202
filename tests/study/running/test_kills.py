"""Processes that are killed, or sleep while others take over, on real Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from dataclasses import replace

import sqlalchemy as sa

from hdvae.training.run_files import standing, written_by
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.storage import Storage
from tests.study.helpers.outcome import series, spec_of, started, tensors, tracked, train, wait_until, workers_of


def test_a_killed_process_is_started_again_and_nothing_is_lost(places, edit, hdvae):
    """SIGKILL of a worker in mid-run: it goes on from its checkpoint, and standard output is still one document."""
    file = edit({"experiment/training/steps": 800, "experiment/evaluation/every": 40, "seeds": [0], "space": {}})
    process = started(["study", "run", file, "--json"], places)
    killed = workers_of(process.pid)
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    out, errors = process.communicate(timeout=240)
    assert len(killed) == 1
    assert process.returncode == 0, errors
    assert "its process was killed; it is started again" in errors
    assert "Traceback" not in errors
    assert json.loads(out)["arms"][0]["runs"] == 1
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["attempts"]) for row in status["trials"]] == [("COMPLETE", 2)]
    _, children = tracked(places)
    assert [run.status for run in children.values()] == ["FINISHED"]
    assert {step for _, step in series(places, children[0, 0].run_id)} == set(range(40, 801, 40))


def test_a_worker_that_outlives_its_killed_driver_changes_nothing(places, edit, hdvae, start, tmp_path):
    """SIGKILL of the driver while a worker is asleep, which wakes up when the second launch has gone on.

    The second launch sees that the driver of this machine is dead, and does not wait for its lease.
    """
    steps, every = 600, 20
    file = edit({"experiment/training/steps": steps, "experiment/evaluation/every": every, "seeds": [0], "space": {}})
    spec = spec_of(file, places)
    folder = places.home / "studies/small/trial-0000/seed-0"
    driver = start("study", "run", file)
    wait_until(lambda: len(list(folder.glob("checkpoints/*.json"))) >= 2)
    driver.kill()
    driver.communicate()

    orphan = train(spec)
    begun = [orphan.stdout.readline(), orphan.stdout.readline()]
    orphan.send_signal(signal.SIGSTOP)
    try:
        second = start("study", "run", file)
        wait_until(lambda: list(folder.glob("checkpoints/*-0002.json")))
        orphan.send_signal(signal.SIGCONT)
        last_words, _ = orphan.communicate(timeout=60)
        _, errors = second.communicate(timeout=240)
    finally:
        orphan.kill()
    assert second.returncode == 0, errors
    assert all(line.startswith("step") for line in begun)
    assert "attempt 2 has taken over from attempt 1" in last_words

    journal = Journal(Storage(places.storage), spec.folder)
    assert journal.steps() == list(range(every, steps + 1, every))
    taken = json.loads((folder / "attempts/0002.json").read_text())
    for kind in ("journal", "checkpoints"):
        names = standing(Storage(places.storage), spec.folder, kind)
        assert {written_by(name) for name in names} <= {1, 2}
        assert all(name in taken[kind] for name in names if written_by(name) == 1)
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["attempts"], row["error"]) for row in status["trials"]] == [("COMPLETE", 2, None)]
    _, children = tracked(places)
    assert {step for _, step in series(places, children[0, 0].run_id)} == set(journal.steps())

    alone = replace(spec, storage=str(tmp_path / "alone"))
    assert train(alone).wait() == 0
    (expected,) = (tmp_path / "alone").glob(f"**/{steps:09d}-0001.safetensors")
    assert tensors(places, 0, 0, steps) == expected.read_bytes()


def test_a_driver_that_was_taken_for_dead_ends_and_changes_nothing(places, edit, hdvae, start):
    """It slept while another launch ran the study to its end."""
    file = edit({"experiment/training/steps": 600, "experiment/evaluation/every": 20, "seeds": [0], "space": {}})
    asleep = start("study", "run", file)
    wait_until(lambda: list(places.home.glob("studies/small/*/*/checkpoints/*.json")))
    put_to_sleep(asleep, places)
    try:
        forget_the_driver(places)
        second = hdvae("study", "run", file)
        assert second.returncode == 0, second.stderr
        before = {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")}
        asleep.send_signal(signal.SIGCONT)
        _, errors = asleep.communicate(timeout=90)
    finally:
        asleep.kill()
    assert asleep.returncode == 2, errors
    assert errors.splitlines()[-1].endswith(
        "study small is now run by another driver, which has taken it over from this one"
    )
    assert "Traceback" not in errors
    assert {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")} == before
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"FINISHED"}
    assert {step for _, step in series(places, children[0, 0].run_id)} == set(range(20, 601, 20))
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["attempts"], row["error"]) for row in status["trials"]] == [("COMPLETE", 2, None)]


def put_to_sleep(process, places):
    """Stop a driver, but not while it holds a lock of an SQLite file: that would lock everyone out with it."""

    def is_free(file):
        with contextlib.closing(sqlite3.connect(places.home / file, timeout=0.2, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return False
        return True

    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        if is_free("optuna.db") and is_free("mlflow.db"):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("the driver never let go of its databases")


def forget_the_driver(places):
    """As if it had been silent for long."""
    with sa.create_engine(places.database).begin() as db:
        db.execute(sa.text("UPDATE hdvae_studies SET beat = 0"))
