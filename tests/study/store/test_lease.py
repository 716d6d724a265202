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
