"""`hdvae train`, told to end."""

from __future__ import annotations

import signal
import time

import pytest

from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.storage import Storage
from tests.study.helpers.outcome import wait_until

EVERY = 700


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_no_step(places, edit, hdvae, start, number):
    """The run ends between two reports, and the same command goes on from the very step."""
    changes = {"experiment/training/steps": 2 * EVERY, "experiment/training/ema": 0.9999}
    file = edit({**changes, "experiment/evaluation/every": EVERY, "space": {}})
    process = start("train", file)
    wait_until(lambda: list(places.home.glob("studies/*/*/*/checkpoints/*.json")))
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "hdvae: interrupted; run the same command again to continue\n")
    (folder,) = places.home.glob("studies/*/*/seed-0")
    checkpoints = Checkpoints(Storage(str(folder)), ".")
    first, last = checkpoints.steps()
    assert first == EVERY < last < 2 * EVERY
    again = hdvae("train", file)
    assert again.returncode == 0, again.stderr
    assert f"goes on from step {last}" in again.stdout
    assert again.stdout.startswith(
        "! ema: training.ema 0.9999 averages over about 10,000 steps, but training has 1,400: "
    )
    assert checkpoints.steps()[-1] == 2 * EVERY
