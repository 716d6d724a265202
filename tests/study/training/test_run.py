"""What a run tells and leaves, in this process."""

import pytest
import torch

from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.storage import Storage
from hdvae_platform.training.computing import computing
from hdvae_platform.training.messages import Warned
from hdvae_platform.training.run import run
from hdvae_platform.training.session import RunSession
from tests.study.helpers.outcome import spec_of


def warnings_of(spec):
    told = []
    run(spec, told.append)
    return [message for message in told if isinstance(message, Warned)]


@pytest.mark.parametrize(("precision", "warned"), [("float32", False), ("tf32", True)])
def test_a_precision_that_makes_nothing_faster_is_told(places, edit, precision, warned):
    spec = spec_of(edit({"experiment/training/precision": precision}), places)
    assert [("tf32 is for GPUs" in message.text) for message in warnings_of(spec)] == [True] * warned


def test_a_run_that_resumes_on_something_else_says_so(places, edit):
    """A session with other threads and another device; where nothing differs, nothing is said."""
    spec = spec_of(edit({}), places)
    run(spec, lambda message: None)
    before = computing(spec.threads, 1, torch.device("cpu"))
    assert Checkpoints(Storage(places.storage), spec.folder).load(20).values["computing"] == before
    for number, changed in ((2, {}), (3, {"threads": 4, "device": "Some GPU"})):
        told = []
        attempt = Attempt(Storage(places.storage), spec.folder, number)
        RunSession(attempt, told.append, computing={**before, **changed}).latest()
        warned = [message for message in told if isinstance(message, Warned)]
        assert len(warned) == bool(changed)
    (warning,) = warned
    assert warning.lasting
    assert f"device Some GPU instead of {before['device']}, threads 4 instead of 1" in warning.text


def test_the_journal_has_what_the_run_cost_apart_from_its_metrics(places, edit):
    spec = spec_of(edit({}), places)
    run(spec, lambda message: None)
    journal = Journal(Storage(places.storage), spec.folder)
    for step in journal.steps():
        entry = journal.entry(step)
        assert entry.costs.keys() == {"train/images_per_second", "system/memory_peak_mb"}
        assert 10 < entry.costs["system/memory_peak_mb"] < 1e5
        assert not entry.costs.keys() & entry.metrics.keys()


@pytest.mark.parametrize(("every", "drawn"), [(10, True), (20, False)])
def test_the_use_of_slots_is_drawn_if_there_is_a_curve(places, edit, every, drawn):
    spec = spec_of(edit({"experiment/evaluation/every": every}), places)
    run(spec, lambda message: None)
    files = Storage(places.storage).list(spec.folder)
    assert ("slots.png" in files, "samples.png" in files) == (drawn, True)
