"""Files of a run that are damaged, cut short or another run's: named in a line, passed over, and made again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from hdvae.errors import InputError
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.per_image import find_per_image
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_summary import read_summary
from hdvae_platform.store.storage import Storage
from hdvae_platform.trained.loading import find_run, load_run
from hdvae_platform.training.messages import Resumed, Warned
from hdvae_platform.training.run import run
from tests.study.helpers.outcome import spec_of

FILES = [
    "attempts/0001.json",
    "journal/000000010-0001.json",
    "journal/000000020-0001.json",
    "checkpoints/000000020-0001.json",
    "checkpoints/000000020-0001.safetensors",
    "per_image/valid-000000020-0001.parquet",
]


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGES = {"flipped": flipped, "cut": lambda data: data[: len(data) // 2], "null": lambda data: b"null"}


@pytest.fixture
def places(tmp_path):
    """A home without databases, which nothing here asks."""
    return Places.under(tmp_path / "home")


@pytest.fixture
def trained(places, edit):
    """The spec of a small run that is complete, and of one with another seed."""
    spec = spec_of(edit({}), places)
    run(spec, lambda message: None)
    other = replace(spec, folder=spec.folder.replace("seed-0", "seed-1"), seed=1)
    return spec, other


def tensors(spec):
    snapshot, _ = Checkpoints(Storage(spec.storage), spec.folder).latest()
    return snapshot.tensors


def look(spec):
    """All that a reader asks of a run, and the lines that it is told."""
    said = []
    storage = Storage(spec.storage, say=said.append)
    summary, _ = read_summary(storage, spec.folder, 1, Goal())
    journal = Journal(storage, spec.folder)
    entries = journal.readable(journal.steps())
    per_image = find_per_image(storage, spec.folder, "valid")
    snapshot, faults = Checkpoints(storage, spec.folder).latest()
    return summary.step, set(entries), per_image is not None, snapshot.values["step"], [*said, *faults]


def test_every_kind_of_file_is_passed_over_when_damaged_and_made_again(trained):
    spec, _ = trained
    whole, before = tensors(spec), look(spec)
    assert before == (20, {10, 20}, True, 20, [])
    kept = f"{spec.storage}.kept"
    shutil.copytree(spec.storage, kept)
    for name in FILES:
        for kind, damage in DAMAGES.items():
            shutil.rmtree(spec.storage)
            shutil.copytree(kept, spec.storage)
            storage = Storage(spec.storage)
            path = f"{spec.folder}/{name}"
            storage.write(path, damage(storage.read(path)))
            *found, said = look(spec)
            assert len(said) == 1, (name, kind, said)
            assert storage.address(path).replace("json", "") in said[0].replace("json", ""), (name, kind, said)
            assert "\n" not in said[0]
            folder, _, step = name.partition("/")
            assert found[0] == 20
            assert found[1] == ({10, 20} - {int(step[:9])} if folder == "journal" else {10, 20})
            assert found[2] == True  # noqa: E712 - the values of the evaluation before
            assert found[3] == (10 if folder == "checkpoints" else 20)

            if kind != "flipped":
                continue
            told = []
            run(replace(spec, attempt=2), told.append)
            resumed = [message.step for message in told if isinstance(message, Resumed)]
            again = folder == "checkpoints" or name.startswith("journal/000000020")
            assert resumed == [10 if again else 20]
            assert all(isinstance(message, Warned) for message in told if "damaged" in str(message))
            found = tensors(spec)
            assert found.keys() == whole.keys()
            assert all(torch.equal(found[name], whole[name]) for name in whole), (name, kind)
            if again:
                assert look(spec)[1] == {10, 20}, "the report was made again"


def test_who_loads_the_model_of_a_run_is_told_that_an_older_one_is_read(trained, places):
    spec, _ = trained
    path = f"{spec.folder}/checkpoints/000000020-0001.json"
    Storage(spec.storage).write(path, b"null")
    said = []
    assert find_run(f"{spec.storage}/{spec.folder}", places, said.append).load().values["step"] == 10
    (line,) = said
    assert line.startswith(f"{spec.storage}/{path} is damaged: ")
    assert line.endswith("; an older checkpoint is read")


def test_a_file_of_another_run_is_not_taken_for_its_own(trained, places):
    spec, other = trained
    run(other, lambda message: None)
    for name in FILES:
        Storage(spec.storage).write(f"{spec.folder}/{name}", Storage(spec.storage).read(f"{other.folder}/{name}"))
    *found, said = look(spec)
    assert found == [20, set(), True, 10]
    assert sum("belongs elsewhere: it was written as" in line for line in said) == len(said) >= 4
    assert load_run(f"{spec.storage}/{other.folder}", places).values["seed"] == 1
    with pytest.raises(InputError, match="belongs elsewhere"):
        load_run(f"{spec.storage}/{spec.folder}/checkpoints/000000010-0001.safetensors", places)
