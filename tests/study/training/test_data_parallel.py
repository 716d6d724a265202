"""Runs of two workers each, on real Ray Train, Ray Tune, SQLite and MLflow, by the command."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import pytest

from hdvae.errors import InputError
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.resources import ElasticConfig, ResourcesConfig
from tests.study.helpers.outcome import series, spec_of, started, tracked, train, workers_of

TWO = {"workers": 2, "concurrent": 1}
SMALL = {
    "space": {},
    "seeds": [0],
    "experiment/training/batch_size": 32,
    "experiment/model/dropout": 0.0,
    "resources": TWO,
}


def test_two_workers_measure_what_one_measures(places, edit, hdvae, tmp_path):
    done = hdvae("study", "run", edit(SMALL))
    assert done.returncode == 0, done.stderr
    assert "starting, 1 run at a time" in done.stdout
    parents, children = tracked(places)
    assert [run.status for run in [*parents, *children.values()]] == ["FINISHED", "FINISHED"]
    folder = places.home / "studies/small/trial-0000/seed-0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "attempts",
        "checkpoints",
        "journal",
        "per_image",
        "samples.png",
        "slots.png",
    ]
    assert {step for _, step in series(places, children[0, 0].run_id)} == {10, 20}

    file = edit({"resources": {"elastic": {"most": 1}}, "name": "elastic"})
    assert hdvae("study", "run", file).returncode == 0
    spec = replace(spec_of(file, places), storage=str(tmp_path / "alone"))
    assert train(spec).wait() == 0
    alone = Journal(Storage(spec.storage), spec.folder)
    for name in ("small", "elastic"):
        found = Journal(Storage(places.storage), run_folder(name, 0, 0))
        for step in (10, 20):
            assert found.entry(step).metrics == pytest.approx(alone.entry(step).metrics, rel=1e-4, abs=1e-4)


def test_a_fault_in_the_workers_is_told_as_that_of_one(places, edit, hdvae):
    done = hdvae("study", "run", edit({**SMALL, "experiment/training/learning_rate": 1e30}))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (row,) = json.loads(hdvae("study", "status", "small", "--json").stdout)["trials"]
    assert (row["state"], row["error"], row["attempts"]) == ("FAIL", "non-finite log_px at step 1", 1)
    assert [run.status for run in tracked(places)[1].values()] == ["FAILED"]


def test_a_killed_worker_and_then_ctrl_c(places, edit, hdvae):
    """SIGKILL of one worker: the run goes on from its checkpoint. Ctrl-C: nothing of the run stays behind."""
    file = edit({**SMALL, "experiment/training/steps": 1_000_000})
    process = started(["study", "run", file], places)
    killed = workers_of(process.pid, "ray::RayTrainWorker")
    assert len(killed) == 2
    os.kill(killed[1], signal.SIGKILL)
    told = []
    for line in process.stdout:
        told.append(line)
        if "goes on from step" in line:
            break
    again: list[int] = []
    limit = time.monotonic() + 120
    while time.monotonic() < limit and len(again) < 2:
        time.sleep(0.5)
        again = workers_of(process.pid, "ray::RayTrainWorker")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "its process was killed; it is started again" in "".join(told)
    assert "Traceback" not in errors
    assert not set(again) & set(killed)
    for worker in again:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
    (row,) = json.loads(hdvae("study", "status", "small", "--json").stdout)["trials"]
    assert (row["state"], row["attempts"]) == ("WAITING", 2)
    assert [run.status for run in tracked(places)[1].values()] == ["KILLED"]


def test_more_workers_than_the_machine_has_and_a_batch_they_cannot_share(edit, hdvae):
    many = {"workers": 1000, "concurrent": 1}
    done = hdvae("study", "run", edit({**SMALL, "experiment/training/batch_size": 32, "resources": many}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "training.batch_size is 32, but 1000 workers need a multiple of 1000: take 1000" in done.stderr
    done = hdvae("study", "run", edit({"resources": {**TWO, "cpus_per_worker": 1000}}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "a run needs 2 × 1000 CPU, but the cluster has" in done.stderr


def test_a_batch_size_of_the_space_is_checked_as_well(edit, hdvae):
    sizes = {"training.batch_size": {"choices": [32, 33]}}
    done = hdvae("study", "check", edit({**SMALL, "space": sizes}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "training.batch_size is 33, but 2 workers need a multiple of 2: take 32 or 34" in done.stderr


@pytest.mark.parametrize(
    ("resources", "machines", "runs"),
    [
        ({}, [{"CPU": 8}], 2),
        ({"concurrent": 9}, [{"CPU": 8}], 8),
        ({"concurrent": 9, "workers": 3}, [{"CPU": 8}], 2),
        ({"concurrent": 9, "workers": 2, "cpus_per_worker": 3}, [{"CPU": 8}, {"CPU": 4}, {"CPU": 2}], 1),
        ({"concurrent": 9, "workers": 2, "gpus_per_worker": 1}, [{"CPU": 64, "GPU": 4}, {"CPU": 64}], 2),
        ({"concurrent": 99, "gpus_per_worker": 0.1}, [{"CPU": 64, "GPU": 1}], 10),
        ({"concurrent": 9, "elastic": ElasticConfig(least=2, most=8)}, [{"CPU": 4}, {"CPU": 3}], 3),
    ],
)
def test_how_many_runs_fit(resources, machines, runs):
    assert ResourcesConfig(**resources).concurrent_runs(machines) == runs


@pytest.mark.parametrize(
    ("slots", "live", "workers"),
    [(8, 0, 4), (4, 0, 2), (3, 0, 1), (2, 1, 2), (3, 1, 2), (1, 1, 1), (5, 1, 4), (0, 0, None), (8, 2, None)],
)
def test_how_many_workers_an_elastic_run_gets(slots, live, workers):
    """Its share of what is left, of what its batch can be shared by: 64 images, by 1, 2 or 4."""
    resources = ResourcesConfig(elastic=ElasticConfig(most=6), concurrent=2)
    assert resources.has_room(slots, live) == (workers is not None)
    if workers is not None:
        assert resources.workers_in(slots, live, batch_size=64) == workers


def test_a_run_that_fits_nowhere():
    """There would be CPUs enough, but no worker is on two machines."""
    with pytest.raises(
        InputError, match=r"needs 2 × 3 CPU and 2 × 1 GPU, but the cluster has 8 CPU and 2 GPU on 4 mach"
    ):
        ResourcesConfig(workers=2, cpus_per_worker=3, gpus_per_worker=1).concurrent_runs(
            [{"CPU": 2}] * 3 + [{"CPU": 2, "GPU": 2}]
        )
