from __future__ import annotations

import logging

from hdvae_platform.training import stop_watcher
from hdvae_platform.training.stop_watcher import StopWatcher
from tests.study.helpers.outcome import wait_until


def test_a_look_that_fails_hides_no_request(monkeypatch, caplog):
    """Ray's head may not answer when it is asked for draining nodes; a SIGTERM that comes later is heard."""
    monkeypatch.setattr(stop_watcher, "POLL_SECONDS", 0.01)
    looks, terminated = [], []

    def draining():
        looks.append(1)
        if len(looks) < 5:
            raise RuntimeError("the head does not answer")
        return False

    with caplog.at_level(logging.ERROR), StopWatcher(draining, lambda: bool(terminated)) as watcher:
        wait_until(lambda: len(looks) > 6, 10)
        assert not watcher.stop_requested()
        terminated.append(1)
        wait_until(watcher.stop_requested, 10)
    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError], "told once"


def test_a_source_that_fails_does_not_hide_the_others():
    def draining():
        raise RuntimeError("the head does not answer")

    with StopWatcher(draining, lambda: True) as watcher:
        wait_until(watcher.stop_requested, 10)
