"""A small experiment, synthetic images, and a session in memory, for the tests of training."""

import json

import numpy as np
import torch

from hdvae.data.dataset import Dataset
from hdvae.experiment.experiment import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    LayerConfig,
    ModelConfig,
    TrainingConfig,
)
from hdvae.objectives.estimators import StepInputs
from hdvae.training.loop import train
from hdvae.training.snapshot import Snapshot
from hdvae.training.state import TrainState
from hdvae.training.step import step_objective
from hdvae.workers import ALONE
from tests.hdvae.oracle import CPU

IMAGE = (4, 3)


def experiment_of(wiring="skip_lvae", evaluation=None, levels=2, **changes):
    """Ten steps of 16 images; `changes` are of the training, or of the model where it has the field."""
    layers = [LayerConfig(variables=2, classes=4), LayerConfig(variables=1, classes=9)][:levels]
    model = {"wiring": wiring, "blocks": "dense", "width": 8, "depth": 1, "layers": tuple(layers)}
    training = {"steps": 10, "batch_size": 16, "freebits": 0.1, "temperature": 0.7}
    for name, value in changes.items():
        (model if name in ModelConfig.model_fields else training)[name] = value
    return Experiment(
        data=DataConfig(name="toy"),
        model=ModelConfig(**model),
        training=TrainingConfig(**training),
        evaluation=EvaluationConfig(**{"every": 4, "images": 6, "draws": 2, "samples": 3, **(evaluation or {})}),
    )


def toy(count=40, valid=9):
    """Images of a bright or a dark half, with some noise."""
    rng = np.random.default_rng(0)

    def images(n):
        halves = np.zeros((n, *IMAGE), np.uint8)
        bright = rng.random(n) < 0.5
        halves[bright, :2] = 1
        halves[~bright, 2:] = 1
        return halves ^ (rng.random(halves.shape) < 0.05).astype(np.uint8)

    return Dataset.from_images("toy", {"train": images(count), "valid": images(valid), "test": images(4)})


class Memory:
    """A session that keeps everything, stops after some reports as a killed run would, and asks a run to end.

    `end_at` holds, for each time that a worker asks whether to stop (the first is 0), those at which it is to.
    """

    workers = ALONE

    def __init__(self, latest=None, stop_after=None, end_at=()):
        self.start, self.stop_after, self.end_at = latest, stop_after, end_at
        self.asked, self.saved = 0, []
        self.reports, self.snapshots, self.per_image, self.costs = [], [], [], []

    def latest(self):
        return self.start

    def stops(self):
        self.asked += 1
        return self.asked - 1 in self.end_at

    def save(self, step, snapshot):
        assert snapshot.values["step"] == step
        self.saved.append(copied(snapshot))

    def report(self, report, snapshot):
        self.snapshots.append(copied(snapshot()))
        self.reports.append((report.step, dict(report.metrics)))
        self.per_image.append(report.per_image)
        self.costs.append(report.costs)
        if len(self.reports) == self.stop_after:
            raise KeyboardInterrupt


def copied(snapshot):
    """A snapshot as it is after storage: JSON, and tensors of their own."""
    tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    return Snapshot(tensors, json.loads(json.dumps(snapshot.values)))


def run(experiment, session=None, dataset=None, seed=3):
    session = session or Memory()
    return train(experiment, dataset or toy(), seed, session, CPU), session


def fresh(experiment, seed=3):
    return TrainState.fresh(experiment, IMAGE, seed, CPU)


def objective_of(state, images, tau, freebits):
    """The objective of the next step of a state."""
    inputs = StepInputs(images, state.seed, state.step, tau, freebits)
    return step_objective(state.model, inputs, state.experiment.training)


def batch(count=16):
    return torch.from_numpy(toy().images("train")[:count]).float()


def assert_same_state(one, other):
    one, other = one.snapshot(), other.snapshot()
    assert one.values == other.values
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
