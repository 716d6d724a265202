"""The images of an experiment: a data set in the home folder, or a user's own file."""

from __future__ import annotations

from pathlib import Path

from hdvae.data.dataset import Dataset
from hdvae.data.loading import load
from hdvae.data.parquet import parquet_path
from hdvae.experiment.experiment import Experiment
from hdvae_platform.store.catalogue import check_name

KNOWN_SHAPE = (28, 28)
"""Height and width of the images of every data set in the catalogue."""


def image_shape(experiment: Experiment, home: Path) -> tuple[int, int]:
    """Height and width of an experiment's images; a known data set need not be fetched for this.

    Raises:
        InputError: there is no such data set or file.
    """
    name = experiment.data.name
    if name is not None and not parquet_path(home, name).exists():
        check_name(name)
        return KNOWN_SHAPE
    dataset = load_data(experiment, home)
    return dataset.height, dataset.width


def load_data(experiment: Experiment, home: Path) -> Dataset:
    """The images of an experiment.

    Raises:
        InputError: there is no such data set, it is not fetched, or it is damaged.
    """
    config = experiment.data
    if config.name is not None:
        check_name(config.name)
    return load(home, config.name, config.path, config.binarization)
