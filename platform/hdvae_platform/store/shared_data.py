"""The images of a study on its storage, for machines that do not share the driver's home folder."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hdvae.data.dataset import Dataset
from hdvae.data.parquet import read_parquet, write_parquet
from hdvae.errors import InputError
from hdvae_platform.store.layout import shared_images
from hdvae_platform.store.private_folder import private_folder
from hdvae_platform.store.storage import Storage, write_atomically


def publish(storage: Storage, study: str, dataset: Dataset) -> None:
    """Write a data set to the storage of a study, unless it is there."""
    name = shared_images(study, dataset.checksum)
    if not storage.exists(name):
        with tempfile.TemporaryDirectory(prefix="hdvae-data-") as folder:
            path = Path(folder) / "images.parquet"
            write_parquet(dataset, path)
            storage.write(name, path.read_bytes())


def fetch(storage: Storage, study: str, checksum: str) -> Dataset:
    """The data set of a study; each machine reads it from the storage once, and keeps it among its temporary files.

    A kept file that is damaged is read from the storage again.

    Raises:
        InputError: it is not on the storage, or it is damaged there.
    """
    name = shared_images(study, checksum)
    kept = private_folder("hdvae-data") / f"{checksum}.parquet"
    if kept.exists():
        with contextlib.suppress(InputError):
            return _checked(kept, checksum)
    try:
        write_atomically(kept, storage.read(name))
        return _checked(kept, checksum)
    except FileNotFoundError:
        raise InputError(f"{storage.address(name)}: there are no images") from None
    except InputError:
        raise InputError(f"{storage.address(name)} is damaged: delete it, and run the study again") from None


def _checked(path: Path, checksum: str) -> Dataset:
    """The data set in a file.

    Raises:
        InputError: the file is damaged, or has other images.
    """
    dataset = read_parquet(path)
    if dataset.checksum != checksum:
        raise InputError(f"{path} holds other images than it says")
    return dataset
