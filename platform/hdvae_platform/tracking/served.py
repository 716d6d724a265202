"""The code of a registered model, which MLflow runs when it loads one. Nothing in the model is a pickle.

The code needs only the library `hdvae`, a copy of which is part of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

import hdvae
from hdvae.errors import InputError


class StudyModel(PythonModel):
    """A trained model: `predict(images, params={"what": …})`, images 0 and 1, (n, H, W).

    - `iw_elbo`: the importance-weighted bound of each image with `samples` samples, nats, (n,);
    - `reconstruct`: pixel probabilities of each image's reconstruction, (n, H, W);
    - `sample`: pixel probabilities of n samples of the model, (n, H, W), where n is the number of images given.
    """

    def load_context(self, context: Any) -> None:
        """Read the weights; their checksum is verified."""
        self._model = hdvae.load(context.artifacts["checkpoint"])

    # MLflow infers no schema from a bare array; the signature of the model has it.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """The result that `params` ask for; see the class."""
        asked = {"what": "iw_elbo", "samples": 100, "seed": 0, **(params or {})}
        images, seed = model_input, int(asked["seed"])
        if asked["what"] == "iw_elbo":
            return self._model.iw_elbo(images, int(asked["samples"]), seed).numpy()
        if asked["what"] == "reconstruct":
            return self._model.reconstruct(images, seed).numpy()
        if asked["what"] == "sample":
            return self._model.sample(len(images), seed).numpy()
        raise InputError(f"what is {asked['what']!r}: iw_elbo, reconstruct or sample")


set_model(StudyModel())
