"""A trained model to work with: what it thinks of images, and images of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.evaluation.importance import importance_weighted
from hdvae.evaluation.sampling import prior_samples, reconstructions
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE, evaluating
from hdvae.training.checkpoints import Damaged, encode, read_address
from hdvae.training.snapshot import Snapshot, trained_model


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, in evaluation mode; hard latent variables (τ = 0) throughout.

    Images are arrays or tensors of 0 and 1, (n, H, W). The same seed gives the same result.

    Attributes:
        model: the network, with the weights that its run stands for: the best, the averaged or the last ones.
        experiment: that it was trained by.
        seed: that it was trained with.
        step: optimisation steps done.
    """

    model: HDVAE
    experiment: Experiment
    seed: int
    step: int

    @staticmethod
    def of(snapshot: Snapshot) -> TrainedModel:
        """The model of a snapshot, on the CPU."""
        values = snapshot.values
        experiment = parse(Experiment, values["experiment"], "checkpoint")
        return TrainedModel(trained_model(snapshot), experiment, values["seed"], values["step"])

    def snapshot(self) -> Snapshot:
        """What `of` reads, without what only training needs."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        values = {"experiment": self.experiment.plain(), "image": list(self.image), "seed": self.seed}
        return Snapshot(tensors, {**values, "step": self.step})

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint without the state of the optimiser, which `hdvae.load` reads from this folder."""
        place = Path(folder) / "checkpoints"
        place.mkdir(parents=True, exist_ok=True)
        data, manifest = encode(self.snapshot(), self.step)
        (place / f"{self.step:09d}-0000.safetensors").write_bytes(data)
        (place / f"{self.step:09d}-0000.json").write_bytes(manifest)

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of its images."""
        return self.model.image

    def to(self, device: torch.device | str) -> TrainedModel:
        """The same on another device, whither the network moves."""
        return replace(self, model=self.model.to(device))

    def iw_elbo(self, images: Any, samples: int = 1000, seed: int = 0) -> Tensor:
        """L_S of each image, log (1/S) Σ_s p(x, z_s)/q(z_s|x): (n,), float64, nats (Burda et al. 2015).

        A lower bound of log p(x) in expectation, tighter with more samples; one sample is the ELBO.

        Raises:
            InputError: the images are not of this model's kind.
        """
        if samples < 1:
            raise InputError(f"samples is {samples}: take at least one")
        with evaluating(self.model):
            return importance_weighted(self.model, self._images(images), samples, seed)

    def reconstruct(self, images: Any, seed: int = 0) -> Tensor:
        """The images as one sample of their posterior gives them back: pixel probabilities, (n, H, W).

        Raises:
            InputError: the images are not of this model's kind.
        """
        return reconstructions(self.model, self._images(images), seed)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Samples of the generative model: pixel probabilities, (count, H, W).

        Raises:
            InputError: the count is not positive.
        """
        if count < 1:
            raise InputError(f"count is {count}: take at least one")
        return prior_samples(self.model, count, seed)

    def _images(self, images: Any) -> Tensor:
        x = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images)
        height, width = self.image
        if x.dim() != 3 or not len(x) or tuple(x.shape[1:]) != (height, width):
            raise InputError(f"images: expected (n, {height}, {width}), got {tuple(x.shape)}")
        if not bool(((x == 0) | (x == 1)).all()):
            raise InputError("images: expected 0 and 1 only; binarise them as the training data were")
        return x.to(next(self.model.parameters()).device)


def load_folder(folder: Path) -> TrainedModel:
    """See `hdvae.load`."""
    try:
        return TrainedModel.of(read_address(str(folder.absolute())))
    except (OSError, Damaged) as fault:
        raise InputError(f"{folder}: {fault}") from None
