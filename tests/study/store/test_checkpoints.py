from __future__ import annotations

import pytest
import torch

from hdvae.errors import Damaged
from hdvae.training.loop import Report
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import KEEP, Checkpoints
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.storage import Storage
from hdvae_platform.training.session import RunSession


@pytest.fixture
def storage(root):
    return Storage(root)


@pytest.fixture
def attempt(storage):
    return Attempt(storage, "run", 0)


def snapshot(step: int) -> Snapshot:
    return Snapshot({"model/w": torch.full((3,), float(step)), "optimizer/w/step": torch.tensor(step)}, {"step": step})


def test_round_trip_keeps_every_bit(storage, attempt):
    checkpoints = Checkpoints(storage, "run")
    values = torch.tensor([1e-38, -0.0, 3.4e38, float("inf")])
    checkpoints.save(5, Snapshot({"a": values, "b": torch.arange(6).view(2, 3).t()}, {"step": 5}), attempt)
    loaded, faults = checkpoints.latest()
    assert faults == []
    assert loaded.values == {"step": 5}
    assert loaded.tensors["a"].view(torch.int32).equal(values.view(torch.int32))
    assert loaded.tensors["b"].equal(torch.arange(6).view(2, 3).t())


def test_older_checkpoints_go(storage, attempt):
    checkpoints = Checkpoints(storage, "run")
    for step in range(1, 6):
        checkpoints.save(step, snapshot(step), attempt)
    assert checkpoints.steps() == [4, 5][-KEEP:]
    assert len(storage.list("run/checkpoints")) == 2 * KEEP


@pytest.mark.parametrize(("direction", "kept"), [("maximize", [2, 6, 7]), ("minimize", [3, 6, 7])])
def test_the_best_checkpoint_stays(storage, attempt, direction, kept):
    """By the metric in its reports; steps that were saved between reports, or without a finite value, do not count."""
    session = RunSession(attempt, lambda message: None, goal=Goal("valid/kl", direction))
    values = {1: 2.0, 2: 4.0, 3: 1.0, 4: float("nan"), 5: 4.0, 7: 3.0}
    image = {"image": torch.tensor([0])}
    for step in range(1, 8):
        if step in values:
            metrics = {"valid/kl": values[step], "valid/elbo": -float(step)}
            session.report(Report(step, metrics, image), lambda step=step: snapshot(step))
        else:
            session.save(step, snapshot(step))
    assert Checkpoints(storage, "run").steps() == kept
    assert len(storage.list("run/checkpoints")) == 2 * len(kept)
    assert float(Checkpoints(storage, "run").load(kept[0]).tensors["model/w"][0]) == kept[0]


def test_when_the_newest_are_damaged_the_best_is_left(storage, attempt):
    session = RunSession(attempt, lambda message: None)
    for step, elbo in ((1, -1.0), (2, -3.0), (3, -2.0)):
        report = Report(step, {"valid/elbo": elbo}, {"image": torch.tensor([0])})
        session.report(report, lambda step=step: snapshot(step))
    for step in (2, 3):
        storage.write(f"run/checkpoints/{step:09d}-0000.safetensors", b"")
    loaded, faults = Checkpoints(storage, "run").latest()
    assert (loaded.values["step"], len(faults)) == (1, 2)


def test_no_checkpoint(storage):
    assert Checkpoints(storage, "run").latest() == (None, [])


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_used(storage, attempt, damage):
    checkpoints = Checkpoints(storage, "run")
    checkpoints.save(1, snapshot(1), attempt)
    checkpoints.save(2, snapshot(2), attempt)
    tensors = "run/checkpoints/000000002-0000.safetensors"
    data = bytearray(storage.read(tensors))
    if damage == "flip":
        data[-1] ^= 1
        storage.write(tensors, bytes(data))
    elif damage == "truncate":
        storage.write(tensors, bytes(data[:-4]))
    elif damage == "remove":
        storage.delete_file(tensors)
    else:
        storage.write(tensors.replace("safetensors", "json"), b"{")
    loaded, faults = checkpoints.latest()
    assert loaded.values["step"] == 1
    assert len(faults) == 1
    assert "000000002" in faults[0]
    with pytest.raises(Damaged):
        checkpoints.load(2)


def test_tensors_without_a_manifest_are_no_checkpoint(storage, attempt):
    checkpoints = Checkpoints(storage, "run")
    checkpoints.save(1, snapshot(1), attempt)
    checkpoints.save(2, snapshot(2), attempt)
    storage.delete_file("run/checkpoints/000000002-0000.json")
    loaded, faults = checkpoints.latest()
    assert (loaded.values["step"], faults) == (1, [])


def test_an_unfinished_write_is_invisible(tmp_path):
    storage = Storage(str(tmp_path / "storage"))
    storage.write("a/b", b"whole")
    (tmp_path / "storage/a/.c.123.tmp").write_bytes(b"ha")
    assert storage.list("a") == ["b"]


def test_a_failed_write_leaves_nothing(tmp_path):
    storage = Storage(str(tmp_path / "storage"))
    storage.write("a/b", b"old")
    (tmp_path / "storage/a/d").mkdir()
    with pytest.raises(OSError, match="directory"):
        storage.write("a/d", b"a folder is in the way")
    assert storage.list("a") == ["b", "d"]
    assert not list((tmp_path / "storage/a").glob(".*"))


def test_journal_keeps_the_first_report_of_a_step(storage, attempt):
    journal = Journal(storage, "run")
    assert journal.steps() == []
    journal.append(20, {"valid/elbo": -1.5}, {}, attempt)
    journal.append(10, {"valid/elbo": -2.5}, {}, attempt)
    first = journal.entry(20)
    journal.append(20, {"valid/elbo": -9.9}, {}, attempt)
    assert journal.steps() == [10, 20]
    assert journal.entry(20) == first
    assert first.metrics == {"valid/elbo": -1.5}


def test_run_folders_have_no_time_stamps():
    assert run_folder("s", 7, 1) == "s/trial-0007/seed-1"
