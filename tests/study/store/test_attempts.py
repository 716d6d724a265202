"""Two sessions on one storage, of which the older must not harm the newer."""

from __future__ import annotations

import pytest
import torch

from hdvae.errors import InputError
from hdvae.training.loop import Report
from hdvae.training.run_files import newest_attempt, standing
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.attempts import FENCED_FOLDERS, Attempt, Fenced
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.per_image import read_per_image
from hdvae_platform.store.storage import Storage
from hdvae_platform.training.session import RunSession


@pytest.fixture
def storage(root):
    return Storage(root)


def begin(storage, number):
    attempt = Attempt(storage, "run", number)
    attempt.begin()
    return RunSession(attempt, lambda message: None)


def report(session, step, value):
    per_image = {"image": torch.tensor([0]), "elbo": torch.tensor([value])}
    report = Report(step, {"valid/elbo": value}, per_image)
    session.report(report, lambda: Snapshot({"w": torch.tensor(value)}, {"step": step}))


def seen(storage):
    """What a reader finds: the journal, the newest checkpoint, the values of each image."""
    journal = Journal(storage, "run")
    snapshot, faults = Checkpoints(storage, "run").latest()
    assert faults == []
    values = read_per_image(storage, "run", "valid")["elbo"].to_pylist()
    entries = {step: journal.entry(step).metrics["valid/elbo"] for step in journal.steps()}
    return entries, (snapshot.values["step"], float(snapshot.tensors["w"])), values


def test_the_older_session_is_refused(storage):
    old = begin(storage, 1)
    report(old, 10, 1.0)
    new = begin(storage, 2)
    before = seen(storage)
    files = [storage.list(f"run/{folder}") for folder in FENCED_FOLDERS]
    with pytest.raises(Fenced, match="run: attempt 2 has taken over from attempt 1"):
        report(old, 20, 1.0)
    with pytest.raises(Fenced):
        old.latest()
    assert [storage.list(f"run/{folder}") for folder in FENCED_FOLDERS] == files
    assert seen(storage) == before == ({10: 1.0}, (10, 1.0), [1.0])
    assert new.latest().values["step"] == 10
    report(new, 20, 2.0)
    assert seen(storage) == ({10: 1.0, 20: 2.0}, (20, 2.0), [2.0])


@pytest.mark.parametrize("first", ["old", "new"])
def test_writes_that_were_under_way_are_never_picked_up(storage, monkeypatch, first):
    """The older session looked before the newer one began, and writes after: as a stalled disk would have it."""
    old = begin(storage, 1)
    report(old, 10, 1.0)
    new = begin(storage, 2)

    def late():
        with monkeypatch.context() as patch:
            patch.setattr(Attempt, "check", lambda self: None)
            report(old, 20, -1.0)
            report(old, 30, -1.0)

    if first == "old":
        late()
        assert seen(storage) == ({10: 1.0}, (10, 1.0), [1.0])
        assert new.latest().values["step"] == 10
    report(new, 20, 2.0)
    if first == "new":
        late()
    assert seen(storage) == ({10: 1.0, 20: 2.0}, (20, 2.0), [2.0])
    report(new, 30, 3.0)
    report(new, 40, 4.0)
    assert seen(storage) == ({10: 1.0, 20: 2.0, 30: 3.0, 40: 4.0}, (40, 4.0), [4.0])
    third = begin(storage, 3)
    assert third.latest().values["step"] == 40
    assert standing(storage, "run", "journal")[0] == "000000010-0001.json"


def test_what_a_late_attempt_left_is_swept_away(storage, monkeypatch):
    old = begin(storage, 1)
    new = begin(storage, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "check", lambda self: None)
        report(old, 10, -1.0)
    report(new, 10, 2.0)
    assert storage.list("run/checkpoints") == ["000000010-0002.json", "000000010-0002.safetensors"]


def test_an_attempt_may_begin_twice(storage, monkeypatch):
    """In the driver, and in the worker: what of the older attempts counts is settled by the first time."""
    old = begin(storage, 1)
    report(old, 10, 1.0)
    Attempt(storage, "run", 2).begin()
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "check", lambda self: None)
        report(old, 20, -1.0)
    new = RunSession(Attempt(storage, "run", 2), lambda message: None)
    assert new.latest().values["step"] == 10
    report(new, 20, 2.0)
    assert begin(storage, 2).latest().values["step"] == 20
    assert seen(storage) == ({10: 1.0, 20: 2.0}, (20, 2.0), [2.0])


def test_a_session_begins_its_attempt_itself(storage):
    session = RunSession(Attempt(storage, "run", 3), lambda message: None)
    assert session.latest() is None
    report(session, 10, 1.0)
    assert seen(storage) == ({10: 1.0}, (10, 1.0), [1.0])


def test_an_attempt_is_asked_to_end_by_its_own_time_only(storage):
    begin(storage, 1)
    old, new = Attempt(storage, "run", 1), Attempt(storage, "run", 2)
    assert not old.asked_to_end()
    old.ask_to_end()
    new.begin()
    assert (old.asked_to_end(), new.asked_to_end()) == (True, False)
    files = storage.list("run/requests")
    with pytest.raises(Fenced):
        old.ask_to_end()
    assert storage.list("run/requests") == files


def test_an_older_attempt_cannot_begin_again(storage):
    begin(storage, 2)
    with pytest.raises(Fenced):
        Attempt(storage, "run", 1).begin()
    assert newest_attempt(storage, "run") == 2


def test_a_checkpoint_that_cannot_be_read_is_written_anew_by_the_next_attempt(storage):
    old = begin(storage, 1)
    report(old, 10, 1.0)
    report(old, 20, 1.5)
    storage.write("run/checkpoints/000000020-0001.safetensors", b"x")
    new = begin(storage, 2)
    assert new.latest().values["step"] == 10
    report(new, 20, 2.0)
    entries, checkpoint, values = seen(storage)
    assert entries == {10: 1.0, 20: 1.5}, "the first report of a step stands"
    assert (checkpoint, values) == ((20, 2.0), [2.0])


def test_a_folder_of_a_run_with_other_parameters_is_refused(storage):
    """As after the study database alone was restored: Optuna gave a number again, with another parameter set."""
    Attempt(storage, "run", 1).begin({"training.freebits": 0.18})
    Attempt(storage, "run", 2).begin({"training.freebits": 0.18})
    with pytest.raises(InputError, match=r'run has a run that was trained with \{"training.freebits": 0.18\}, but'):
        Attempt(storage, "run", 3).begin({"training.freebits": 3.26})
    assert newest_attempt(storage, "run") == 2
