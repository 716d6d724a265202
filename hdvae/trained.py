"""Trained models: how to get one, and what to do with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hdvae.config import parse
from hdvae.data.dataset import Dataset
from hdvae.errors import Damaged, InputError
from hdvae.evaluation.importance import importance_weighted
from hdvae.evaluation.sampling import prior_samples, reconstructions
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE, evaluating
from hdvae.training import loop
from hdvae.training.checkpoints import encode, read_address
from hdvae.training.in_memory import InMemory
from hdvae.training.run_files import CHECKPOINTS, Folder, newest_attempt
from hdvae.training.snapshot import Snapshot, trained_model


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in evaluation mode. All latent variables are hard (τ = 0).

    Images are arrays or tensors of 0 and 1, (n, H, W). The same seed gives the same result.

    Attributes:
        model: the network: with the best weights after early stopping, else the averaged weights if the run has them,
            else the last ones.
        experiment: the settings of its run.
        seed: the seed of its run.
        step: the number of optimisation steps done.
    """

    model: HDVAE
    experiment: Experiment
    seed: int
    step: int

    @staticmethod
    def of(snapshot: Snapshot) -> TrainedModel:
        """The trained model of a snapshot, on the CPU."""
        values = snapshot.values
        experiment = parse(Experiment, values["experiment"], "checkpoint")
        return TrainedModel(trained_model(snapshot), experiment, values["seed"], values["step"])

    def snapshot(self) -> Snapshot:
        """A snapshot of the model, without the state that only training needs."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        values = {"experiment": self.experiment.plain(), "image": list(self.image), "seed": self.seed}
        return Snapshot(tensors, {**values, "step": self.step})

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint into a folder, from which `hdvae.load` reads it. Training cannot resume from it.

        Raises:
            InputError: the folder is that of a run, whose own checkpoints would be read instead.
        """
        if newest_attempt(Folder(str(folder)), "."):
            raise InputError(f"{folder} is the folder of a run, which keeps its own checkpoints: give another folder")
        stem = f"{CHECKPOINTS}/{self.step:09d}-0000"
        (Path(folder) / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        data, manifest = encode(self.snapshot(), self.step, stem=stem)
        (Path(folder) / f"{stem}.safetensors").write_bytes(data)
        (Path(folder) / f"{stem}.json").write_bytes(manifest)

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of its images, in pixels."""
        return self.model.image

    def to(self, device: torch.device | str) -> TrainedModel:
        """The same model on another device. The network is moved, not copied."""
        return replace(self, model=self.model.to(device))

    def iw_elbo(self, images: Any, samples: int = 1000, seed: int = 0) -> Tensor:
        """The importance-weighted bound of each image, L_S = log (1/S) Σ_s p(x, z_s)/q(z_s|x) (Burda et al. 2015).

        In expectation it is a lower bound of log p(x), which more samples tighten; with one sample it is the ELBO.

        Args:
            images: images of 0 and 1, (n, H, W).
            samples: S, the number of samples of each image.
            seed: the seed of the noise.

        Returns:
            (n,), float64, nats.

        Raises:
            InputError: the images do not have the size of this model's images, or values other than 0 and 1.
        """
        if samples < 1:
            raise InputError(f"samples is {samples}, but must be at least 1")
        with evaluating(self.model):
            return importance_weighted(self.model, self._images(images), samples, seed)

    def reconstruct(self, images: Any, seed: int = 0) -> Tensor:
        """Reconstructions of images (n, H, W) from one sample of their posterior: pixel probabilities, (n, H, W).

        Raises:
            InputError: the images do not have the size of this model's images, or values other than 0 and 1.
        """
        return reconstructions(self.model, self._images(images), seed)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Samples of the generative model: pixel probabilities, (count, H, W).

        Raises:
            InputError: the count is not positive.
        """
        if count < 1:
            raise InputError(f"count is {count}, but must be at least 1")
        return prior_samples(self.model, count, seed)

    def _images(self, images: Any) -> Tensor:
        x = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images)
        height, width = self.image
        if x.dim() != 3 or not len(x) or tuple(x.shape[1:]) != (height, width):
            raise InputError(f"images: expected (n, {height}, {width}), got {tuple(x.shape)}")
        if not bool(((x == 0) | (x == 1)).all()):
            raise InputError("images: expected values 0 and 1 only; binarise them like the training data")
        return x.to(next(self.model.parameters()).device)


def load(folder: str | Path) -> TrainedModel:
    """Load a trained model from a checkpoint on this machine. Checksums are verified, and no code in it can run.

    Args:
        folder: the folder of a run, e.g. `runs/studies/first/trial-0001/seed-0`, or its `checkpoints` folder, for the
            newest readable checkpoint; or one `.safetensors` file in there.

    Raises:
        InputError: there is no checkpoint, or the given one is damaged.
    """
    try:
        return TrainedModel.of(read_address(str(Path(folder).absolute())))
    except (OSError, Damaged) as fault:
        raise InputError(f"{folder}: {fault}") from None


def train(experiment: Experiment, dataset: Dataset, seed: int = 0, device: torch.device | str = "cpu") -> TrainedModel:
    """Train a model in this process, without a study. Nothing is stored; see `TrainedModel.save`.

    Args:
        experiment: the settings. Their `data` part is not read: the data are those of `dataset`.
        dataset: the images.
        seed: the seed of the initial weights and of all noise.
        device: the device to train on.

    Returns:
        The trained model, on the CPU.

    Raises:
        InputError: the data set does not suit the experiment.
        NonFinite: a quantity of the loss is not finite.
    """
    state = loop.train(experiment, dataset, seed, InMemory(), torch.device(device))
    return TrainedModel.of(state.snapshot())
