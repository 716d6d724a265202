"""Hierarchical discrete variational autoencoders (HD-VAEs) in PyTorch: train, load, evaluate and sample models.

- `hdvae.load(folder)` loads a trained model from the folder of a run or from a checkpoint.
- `hdvae.train(experiment, dataset, seed)` trains a model in this process. The `hdvae` command trains whole studies.
- `hdvae.Experiment.from_plain(values)` reads the settings of a run: the data, the model, the training, the evaluation.
- `hdvae.Dataset.from_images(name, splits)` makes a data set of binary images.
- The result of `load` and `train` is a `hdvae.TrainedModel`, with `iw_elbo`, `reconstruct`, `sample` and `save`.

For example, with random images instead of data:

>>> import hdvae, numpy
>>> images = numpy.random.default_rng(0).integers(0, 2, (48, 6, 6), dtype=numpy.uint8)
>>> dataset = hdvae.Dataset.from_images("random", {"train": images[:32], "valid": images[32:40], "test": images[40:]})
>>> experiment = hdvae.Experiment.from_plain({
...     "data": {"name": "random"},
...     "model": {"blocks": "dense", "width": 16, "depth": 1, "layers": [{"variables": 4, "classes": 16}]},
...     "training": {"steps": 3, "batch_size": 16, "temperature": 0.5},
... })
>>> model = hdvae.train(experiment, dataset, seed=0)
>>> model.iw_elbo(images[40:], samples=10).shape  # a lower bound of log p(x) of each image, nats
torch.Size([8])
>>> model.sample(2).shape  # pixel probabilities
torch.Size([2, 6, 6])
>>> model.save("my-model")  # doctest: +SKIP
>>> model = hdvae.load("my-model")  # doctest: +SKIP

Importing `hdvae` does not import torch; using one of its names does, if it is needed.

The packages, from the settings of a run to the trained model: `experiment` (settings), `data`, `randomness`, `latents`
(distributions and memories), `network`, `objectives` (and gradient estimators), `bounds` (of the relaxation bias),
`evaluation`, `training`. `workers` has the processes that train one model together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hdvae.version import __version__

if TYPE_CHECKING:
    from hdvae.data.dataset import Dataset
    from hdvae.errors import InputError
    from hdvae.experiment.experiment import Experiment
    from hdvae.trained import TrainedModel, load, train

__all__ = ["Dataset", "Experiment", "InputError", "TrainedModel", "__version__", "load", "train"]

_MODULES = {
    "Dataset": "hdvae.data.dataset",
    "Experiment": "hdvae.experiment.experiment",
    "InputError": "hdvae.errors",
    "TrainedModel": "hdvae.trained",
    "load": "hdvae.trained",
    "train": "hdvae.trained",
}
"""The module of each public name. It is imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hdvae' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
