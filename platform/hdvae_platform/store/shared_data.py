"""The images of a study on its storage, from which machines read them that share no folder with the driver's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hdvae.data.dataset import Dataset
from hdvae.data.parquet import read_parquet, write_parquet
from hdvae.errors import InputError
from hdvae_platform.store.layout import shared_images
from hdvae_platform.store.storage import Storage, write_atomically


def publish(storage: Storage, study: str, dataset: Dataset) -> None:
    """Put a data set on the storage of a study, unless it is there."""
    name = _name(study, dataset.checksum)
    if not storage.exists(name):
        with tempfile.TemporaryDirectory(prefix="hdvae-data-") as folder:
            path = Path(folder) / "images.parquet"
            write_parquet(dataset, path)
            storage.write(name, path.read_bytes())


def fetch(storage: Storage, study: str, checksum: str) -> Dataset:
    """The data set of a study; a machine reads it from the storage once, and keeps it among its temporary files.

    Raises:
        InputError: it is not on the storage, or damaged.
    """
    kept = Path(tempfile.gettempdir()) / f"hdvae-data-{os.getuid()}" / f"{checksum}.parquet"
    if not kept.exists():
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            write_atomically(kept, storage.read(_name(study, checksum)))
        except FileNotFoundError:
            raise InputError(f"{storage.address(_name(study, checksum))}: the images are not there") from None
    dataset = read_parquet(kept)
    if dataset.checksum != checksum:
        raise InputError(f"{kept} holds other images than it says: delete it")
    return dataset


def _name(study: str, checksum: str) -> str:
    return shared_images(study, checksum)
