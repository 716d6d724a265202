"""An evaluation that several processes share has the numbers of one process, and loses nothing when one is killed."""

from contextlib import suppress
from threading import Thread

import psutil
import pytest

from hdvae.errors import PeerLost
from hdvae_platform.trained import unfinished
from hdvae_platform.trained.assessment import assess
from hdvae_platform.trained.loading import find_run
from hdvae_platform.trained.unfinished import Unfinished
from hdvae_platform.training.run import run
from tests.study.helpers.outcome import spec_of, wait_until

SETTINGS = {"tau": (0.1,), "samples": 12, "draws": 2, "kappa": "certified"}


@pytest.fixture
def trained(places, edit):
    spec = spec_of(edit({}), places)
    run(spec, lambda message: None)
    return find_run(f"{spec.storage}/{spec.folder}", places)


def test_two_processes_measure_what_one_measures(trained, places, monkeypatch):
    def assessed(workers):
        return assess(trained, "test", None, SETTINGS, places, workers=workers)

    alone = assessed(1)
    monkeypatch.setattr(Unfinished, "discard", lambda self: None)
    together = assessed(2)
    assert together.metrics == pytest.approx(alone.metrics, rel=1e-5, abs=1e-6)
    assert together.unkept == ""
    kept = (places.home / unfinished.FOLDER).glob("*/*.json")
    assert sorted(file.stem for file in kept) == ["000000000-000000012", "000000012-000000024"]


def processes_of_the_evaluation():
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def kill_one():
    wait_until(lambda: len(processes_of_the_evaluation()) == 2)
    processes_of_the_evaluation()[1].kill()


def test_a_killed_process_ends_the_others(trained, places):
    killer = Thread(target=kill_one)
    killer.start()
    with pytest.raises(PeerLost, match="was killed"):
        assess(trained, "test", None, SETTINGS, places, workers=2)
    killer.join()
    wait_until(lambda: not processes_of_the_evaluation())
