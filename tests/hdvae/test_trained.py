"""Loading a trained model from a folder, and what it can do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import hdvae
from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.evaluation.importance import importance_weighted
from hdvae.evaluation.sampling import prior_samples
from hdvae.experiment.experiment import Experiment
from hdvae.trained import TrainedModel
from hdvae.training import loop
from hdvae.training.in_memory import InMemory
from hdvae.training.sealed import seal
from hdvae.training.state import TrainState
from hdvae.training.step import train_step

EXPERIMENT = {
    "data": {"path": "images.npz"},
    "model": {"blocks": "dense", "width": 8, "depth": 1, "layers": [{"variables": 3, "classes": 4}]},
    "training": {"steps": 9, "batch_size": 16, "temperature": 0.5},
}
SHAPE = (6, 5)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.RandomState(0).randint(2, size=(7, *SHAPE)).astype(np.uint8)


def trained(**training) -> TrainState:
    plain = {**EXPERIMENT, "training": {**EXPERIMENT["training"], **training}}
    state = TrainState.fresh(parse(Experiment, plain, "test"), SHAPE, seed=3, device=torch.device("cpu"))
    batch = torch.bernoulli(torch.full((16, *SHAPE), 0.3), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        train_step(state, batch)
    return state


@pytest.fixture
def folder(tmp_path):
    TrainedModel.of(trained().snapshot()).save(tmp_path / "run")
    return tmp_path / "run"


def test_what_is_loaded_is_what_was_saved(folder, images):
    state, model = trained(), hdvae.load(folder)
    assert (model.seed, model.step, model.image) == (3, 3, SHAPE)
    assert model.experiment == state.experiment
    wanted = importance_weighted(state.model.eval(), torch.from_numpy(images), 5, seed=2)
    assert model.iw_elbo(images, 5, seed=2).equal(wanted)
    assert model.iw_elbo(torch.from_numpy(images).float(), 5, seed=2).equal(wanted)
    assert wanted.dtype == torch.float64
    assert model.sample(4, seed=1).equal(prior_samples(state.model, 4, seed=1))
    for address in (folder, f"{folder}/", folder / "checkpoints", folder / "checkpoints/000000003-0000.safetensors"):
        assert hdvae.load(address).iw_elbo(images, 5, seed=2).equal(wanted)


def test_the_weights_are_those_that_the_run_stands_for(tmp_path, images):
    state = trained(ema=0.9)
    TrainedModel.of(state.snapshot()).save(tmp_path)
    found = hdvae.load(tmp_path).iw_elbo(images, 3)
    averaged = importance_weighted(state.result().eval(), torch.from_numpy(images), 3, seed=0)
    last = importance_weighted(state.model.eval(), torch.from_numpy(images), 3, seed=0)
    assert found.equal(averaged)
    assert not found.equal(last)


def test_more_samples_are_a_tighter_bound(folder, images):
    model = hdvae.load(folder)
    assert model.iw_elbo(images, 200).mean() > model.iw_elbo(images, 1).mean()


def test_reconstructions_are_probabilities_and_a_function_of_the_seed(folder, images):
    model = hdvae.load(folder)
    found = model.reconstruct(images, seed=1)
    assert found.shape == images.shape
    assert ((found > 0) & (found < 1)).all()
    assert found.equal(model.reconstruct(images, seed=1))
    assert not found.equal(model.reconstruct(images, seed=2))


def test_using_it_leaves_the_weights_and_asks_for_no_gradient(folder, images):
    model = hdvae.load(folder)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    results = (model.iw_elbo(images, 2), model.reconstruct(images), model.sample(2))
    assert not any(result.requires_grad for result in results)
    assert all(tensor.equal(before[name]) for name, tensor in model.model.state_dict().items())


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 5, 6)), r"expected \(n, 6, 5\), got \(2, 5, 6\)"),
        (np.zeros(SHAPE), r"expected \(n, 6, 5\), got \(6, 5\)"),
        (np.zeros((0, *SHAPE)), r"got \(0, 6, 5\)"),
        (np.full((2, *SHAPE), 0.5), "0 and 1 only"),
        (np.full((2, *SHAPE), np.nan), "0 and 1 only"),
    ],
)
def test_images_of_another_kind_are_refused(folder, images, words):
    model = hdvae.load(folder)
    for act in (model.iw_elbo, model.reconstruct):
        with pytest.raises(InputError, match=words):
            act(images)


def test_counts_are_positive(folder, images):
    model = hdvae.load(folder)
    with pytest.raises(InputError, match="samples is 0"):
        model.iw_elbo(images, 0)
    with pytest.raises(InputError, match="count is 0"):
        model.sample(0)


def test_the_newest_that_can_be_read_is_taken_and_a_named_one_that_cannot_is_refused(folder, tmp_path):
    state = trained()
    state.step = 8
    TrainedModel.of(state.snapshot()).save(folder)
    assert hdvae.load(folder).step == 8
    newest = folder / "checkpoints/000000008-0000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"000000008-0000\.safetensors is damaged: .*; an older checkpoint is read"):
        assert hdvae.load(folder).step == 3
    with pytest.raises(InputError, match=r"000000008-0000\.safetensors.*checksum differs"):
        hdvae.load(newest)
    (tmp_path / "empty").mkdir()
    for nowhere in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no checkpoint there"):
            hdvae.load(nowhere)


def test_a_late_file_of_an_attempt_that_was_shut_out_does_not_count(folder):
    state = trained()
    state.step = 8
    TrainedModel.of(state.snapshot()).save(folder)
    names = [f"000000003-0000.{kind}" for kind in ("json", "safetensors")]
    (folder / "attempts").mkdir()
    (folder / "attempts/0001.json").write_bytes(seal("", "attempts/0001.json", {"checkpoints": names}))
    assert hdvae.load(folder).step == 3


def test_a_model_is_not_saved_into_the_folder_of_a_run(folder, tmp_path):
    """Its own checkpoints would be read instead."""
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts/0001.json").write_bytes(seal("s/trial-0000/seed-0", "attempts/0001.json", {}))
    with pytest.raises(InputError, match=f"{tmp_path} is the folder of a run, which keeps its own checkpoints"):
        hdvae.load(folder).save(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights * float("nan"), "has values that are not finite"),
        (lambda weights: weights[..., :-1], r"has the shape \(.*\) instead of \("),
    ],
)
def test_weights_that_no_model_can_use_are_one_line(change, words):
    """In a checkpoint that is whole."""
    state = trained()
    snapshot = state.snapshot()
    name = next(name for name in snapshot.tensors if name.startswith("model/") and snapshot.tensors[name].dim() > 1)
    changed = replace(snapshot, tensors={**snapshot.tensors, name: change(snapshot.tensors[name])})
    fresh = TrainState.fresh(state.experiment, state.model.image, state.seed, torch.device("cpu"))
    for read in (TrainedModel.of, fresh.restore):
        with pytest.raises(InputError, match=words) as fault:
            read(changed)
        assert "\n" not in str(fault.value)


def test_training_in_this_process_is_a_function_of_the_seed(images):
    dataset = hdvae.Dataset.from_images("toy", {"train": np.tile(images, (3, 1, 1)), "valid": images, "test": images})
    experiment = hdvae.Experiment.from_plain(EXPERIMENT)
    one, same, other = (hdvae.train(experiment, dataset, seed=seed) for seed in (1, 1, 2))
    assert (one.step, one.seed, one.experiment) == (9, 1, experiment)
    assert one.iw_elbo(images, 3).equal(same.iw_elbo(images, 3))
    assert not one.iw_elbo(images, 3).equal(other.iw_elbo(images, 3))
    with pytest.raises(InputError, match="training images"):
        hdvae.train(experiment, hdvae.Dataset.from_images("few", dict.fromkeys(("train", "valid", "test"), images)))


def test_reports_in_memory_are_those_of_the_run(images):
    dataset = hdvae.Dataset.from_images("toy", {"train": np.tile(images, (3, 1, 1)), "valid": images, "test": images})
    plain = {**EXPERIMENT, "evaluation": {"every": 4, "draws": 1, "samples": 2}}
    called = []
    session = InMemory(lambda step, metrics: called.append((step, dict(metrics))))
    loop.train(hdvae.Experiment.from_plain(plain), dataset, 0, session, torch.device("cpu"))
    assert list(session.reports.items()) == called
    assert [step for step, _ in called] == [4, 8, 9]
    assert "valid/elbo" in session.reports[9]


def test_public_names_are_there_and_wrong_ones_are_not():
    assert all(getattr(hdvae, name) is not None for name in hdvae.__all__)
    assert set(hdvae.__all__) <= set(dir(hdvae))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = hdvae.lode


@pytest.mark.parametrize(
    "use", ["hdvae", "hdvae.Experiment", "hdvae.Dataset", "hdvae.InputError", "help(hdvae.errors)"]
)
def test_what_needs_no_torch_does_not_import_it(use):
    code = f"import sys, hdvae, hdvae.errors; {use}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
