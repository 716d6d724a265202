from __future__ import annotations

import subprocess
import sys

import pytest

from hdvae_platform.store import lease
from hdvae_platform.store.records import Records


@pytest.fixture
def held(tmp_path):
    """What is known of a study that a driver of this name holds."""

    def by(driver):
        records = Records(f"sqlite:///{tmp_path}/db")
        records.define("s", {}, {}, {})
        records.take("s", driver)
        return records.study("s")

    return by


def name_of_another_process():
    """As a driver calls itself, that has ended since."""
    code = "from hdvae_platform.store import lease; print(lease.driver_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_of_this_machine_that_ended_is_dead(held):
    name = name_of_another_process()
    assert lease.dead(held(name)) == name


def test_this_process_is_not_dead(held):
    assert lease.dead(held(lease.driver_name())) is None


def test_a_process_of_another_machine_may_live(held, monkeypatch):
    """Two containers may share a host name: the number of a process says nothing in the other one."""
    name = name_of_another_process()
    monkeypatch.setattr(lease, "_machine", lambda: "0" * 8)
    assert lease.dead(held(name)) is None


def test_nobody_is_not_dead(held):
    assert lease.dead(None) is None
    record = held("somebody else")
    assert lease.dead(record) is None


def test_the_heart_beats_on_after_any_fault(held, monkeypatch):
    """A thread that ended would lose the study to another driver, and hear no request to stop."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    beats = []

    class Faulty:
        def beat(self, study, driver):
            beats.append(1)
            if len(beats) < 3:
                raise RuntimeError("a fault of no kind that was thought of")
            return len(beats) > 4

    with lease.beating(Faulty(), "s", "d") as stop:
        assert stop.wait(10)
    assert len(beats) > 4
