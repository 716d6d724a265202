"""The data set that an experiment asks for: a fetched one by its name, or your own file by its path."""

from __future__ import annotations

from pathlib import Path

from hdvae.data.dataset import Dataset
from hdvae.data.npz import read_own
from hdvae.data.parquet import FETCH_HINT, parquet_path, read_parquet
from hdvae.errors import InputError


def is_there(path: Path) -> bool:
    """Whether a file or folder exists at `path`.

    Raises:
        InputError: this cannot be determined, e.g. for lack of permission to enter a folder.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"cannot access {path}: {error.strerror}") from error
    return True


def load(home: Path, name: str | None, path: str | None, binarization: str = "none") -> Dataset:
    """Load a fetched data set by its name, or your own images by their path.

    Args:
        home: the folder of all local files (`HDVAE_HOME`).
        name: the name of a fetched data set, or None.
        path: your own `.npz` file (see `hdvae.data.npz.read_own`), or None.
        binarization: how to make the images of `path` binary; fetched data sets are already binary.

    Raises:
        InputError: not exactly one of name and path is given, or the data set cannot be used.
    """
    if name is not None and path is None:
        return _load_fetched(home, name, binarization)
    if path is not None and name is None:
        return read_own(path, binarization)
    given = "neither" if name is None else f"both '{name}' and '{path}'"
    raise InputError(f"data: give either the name of a data set or the path of an .npz file, not {given}")


def _load_fetched(home: Path, name: str, binarization: str) -> Dataset:
    """Read the fetched data set `name` from its file."""
    if binarization != "none":
        raise InputError(f"data set '{name}' is binary already: binarization must be 'none', not '{binarization}'")
    path = parquet_path(home, name)
    if not is_there(path):
        raise InputError(f"data set '{name}' is not fetched (looked for {path}): {FETCH_HINT.format(name)}")
    dataset = read_parquet(path)
    if dataset.name != name:
        raise InputError(f"{path} contains data set '{dataset.name}', not '{name}': {FETCH_HINT.format(name)}")
    return dataset
