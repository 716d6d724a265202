"""Where the runs of a study go on from: found on the storage, refused in one line, and the same after a crash."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hdvae.errors import InputError
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.images import load_data
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.records import Records
from hdvae_platform.store.sources import sources_of
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.annealing import experiments_of
from hdvae_platform.study.file import load_study
from hdvae_platform.training.messages import Resumed
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec
from tests.study.helpers.outcome import spec_of

LONGER = {"name": "longer", "start_from": "small/0", "experiment/training/steps": 40, "space": {}, "seeds": [0]}


@pytest.fixture
def source(edit, places):
    """The study `small` with one complete run, and one that runs."""
    file = edit({"space": {}, "seeds": [0]})
    run(spec_of(file, places), lambda message: None)
    study, records = load_study(file), Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    for seed, state in ((0, "COMPLETE"), (1, "RUNNING"), (2, "COMPLETE")):
        records.add_run(study.name, 0, seed)
        records.set_run(study.name, 0, seed, state=state, attempts=1)
    return records


@pytest.fixture
def sources(edit, places, source):
    def of(**changes):
        study = load_study(edit({**LONGER, **changes}))
        return sources_of(study, experiments_of(study), source, Storage(places.storage))

    return of


def test_each_seed_has_the_checkpoint_of_its_run(sources, places):
    (found,) = sources().values()
    manifest = json.loads(Storage(places.storage).read(f"{found.run}/{found.stem}.json"))
    assert (found.handle, found.step, found.sha256) == ("small/0/0", 20, manifest["tensors"]["sha256"])
    assert found.read(Storage(places.storage)).values["step"] == 20
    assert sources(start_from=None) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start_from": "smal/0"}, "start_from: smal/0: no study smal"),
        ({"start_from": "small/3"}, "start_from: study small has no trial 3"),
        ({"seeds": [0, 5]}, "start_from: small/0 has no run of seed 5: its seeds are 0, 1, 2"),
        ({"seeds": [1]}, "start_from: small/0/1 is RUNNING: it must be complete"),
        ({"seeds": [2]}, "start_from: small/0/2 has no checkpoint"),
        ({"experiment/model/width": 16}, "start_from: small/0/0: the network must be the same"),
        ({"experiment/training/steps": 20}, "its checkpoint is of step 20: training.steps must be larger, not 20"),
        ({"space": {"training.steps": {"choices": [40, 10]}}}, "training.steps must be larger, not 10"),
    ],
)
def test_what_a_study_cannot_go_on_from(sources, changes, said):
    with pytest.raises(InputError) as fault:
        sources(**changes)
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)


def spec(study, places, found, number, folder):
    attempt, checksum = (
        Attempt(Storage(places.storage), folder, number),
        load_data(study.experiment, places.home).checksum,
    )
    made = {"threads": 1, "gpus": 0, "data_checksum": checksum, "source": found}
    return RunSpec.of(study.experiment, 0, attempt, places, **made)


def test_a_run_that_was_killed_goes_on_from_its_own_checkpoint_to_the_last_bit(sources, edit, places):
    (found,) = sources().values()
    study, told = load_study(edit({})), []
    folders = [run_folder("longer", trial, 0) for trial in (0, 1)]
    run(spec(study, places, found, 1, folders[0]), told.append)
    assert [message.step for message in told if isinstance(message, Resumed)] == [20]

    def killed(message):
        if getattr(message, "step", 0) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec(study, places, found, 1, folders[1]), killed)
    gone = replace(found, sha256="0" * 64)  # a run with a checkpoint of its own needs its source no more
    run(spec(study, places, gone, 2, folders[1]), told.append)
    assert [message.step for message in told if isinstance(message, Resumed)] == [20, 30]
    storage = Storage(places.storage)
    whole, resumed = (Checkpoints(storage, folder).load(40) for folder in folders)
    assert all((tensor == resumed.tensors[name]).all() for name, tensor in whole.tensors.items())
    first, second = (Journal(storage, folder).entry(40).metrics for folder in folders)
    assert first == second


def test_a_source_that_has_changed_or_is_gone_is_refused(sources, places):
    (found,) = sources().values()
    for changed in (replace(found, sha256="0" * 64), replace(found, stem=f"{found.stem}0")):
        with pytest.raises(InputError, match="start_from: the checkpoint of small/0/0 cannot be read"):
            changed.read(Storage(places.storage))


def test_the_checkpoint_is_part_of_the_fingerprint(sources, edit):
    (found,) = sources().values()
    experiment = load_study(edit({})).experiment
    other = replace(found, sha256="0" * 64)
    assert len({found.fingerprint(experiment), other.fingerprint(experiment), experiment.fingerprint}) == 3
