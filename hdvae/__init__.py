"""Hierarchical discrete variational autoencoders: model, objectives, evaluation and training in PyTorch.

Data flows through five nouns: a study (see `hdvae_platform`) yields an `Experiment`; training moves a
`TrainState`; the model returns `LayerTerms`; objectives and evaluation turn them into metrics.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hdvae.version import __version__ as __version__

if TYPE_CHECKING:
    from hdvae.trained import TrainedModel


def load(folder: str | Path) -> TrainedModel:
    """The trained model of a checkpoint on this machine; checksums are verified, and nothing that is read can run.

    Args:
        folder: of a run, e.g. `runs/studies/first/trial-0001/seed-0`, or its `checkpoints` folder: then the newest
            checkpoint that can be read; or one `.safetensors` file there.

    Raises:
        InputError: there is no checkpoint, or the one that is named is damaged.
    """
    from hdvae.trained import load_folder  # not before it is wanted: it brings torch

    return load_folder(Path(folder))
