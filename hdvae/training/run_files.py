"""The files in the folder of a run, and which of them are valid.

    RUN/checkpoints/000000300-0001.safetensors
    RUN/checkpoints/000000300-0001.json        written last; without it the checkpoint is not valid
    RUN/attempts/0002.json                     the files of earlier attempts that the second attempt continues from

The numbers in a name are the step, and the attempt that wrote the file. A run that was killed may be continued by
another process while the first one still writes. Therefore a file of an older attempt is valid only if the record of
the newest attempt lists it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

ATTEMPTS, CHECKPOINTS = "attempts", "checkpoints"
"""Folders of a run that the library reads."""
_NUMBERED = re.compile(r"-(\d{4,})\.")


class Files(Protocol):
    """Access to files, whose names are relative to a root folder."""

    def list(self, folder: str) -> list[str]:
        """The sorted names of the files in a folder; none if there is no such folder."""
        ...

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def address(self, name: str) -> str:
        """The full address of a file, for messages."""
        ...


class Folder:
    """Access to the files in a folder on this machine."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def list(self, folder: str) -> list[str]:
        """The sorted names of the files in a folder; none if there is no such folder."""
        path = self._root / folder
        names = [file.name for file in path.iterdir()] if path.is_dir() else []
        return sorted(name for name in names if not name.startswith("."))

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return (self._root / name).read_bytes()

    def address(self, name: str) -> str:
        """The path of a file."""
        return str(self._root / name)


def newest_attempt(files: Files, run: str) -> int:
    """The number of the newest attempt of a run; 0 before the first one."""
    return max((int(name.removesuffix(".json")) for name in files.list(f"{run}/{ATTEMPTS}")), default=0)


def standing(files: Files, run: str, folder: str) -> list[str]:
    """The valid files in a folder of a run, sorted: those of the newest attempt, and those that it continues from."""
    return valid_files(files, run, folder)[folder]


def valid_files(files: Files, run: str, *folders: str) -> dict[str, list[str]]:
    """The valid files in each of some folders of a run, sorted; the record of the newest attempt is read once."""
    newest = newest_attempt(files, run)
    taken = json.loads(files.read(f"{run}/{ATTEMPTS}/{newest:04d}.json")) if newest else {}
    return {
        folder: [
            name
            for name in files.list(f"{run}/{folder}")
            if written_by(name) == newest or name in taken.get(folder, [])
        ]
        for folder in folders
    }


def written_by(name: str) -> int:
    """The number of the attempt that wrote a file, from its name.

    >>> written_by("000000300-0002.json")
    2
    """
    match = _NUMBERED.search(name)
    return int(match[1]) if match else 0


def step_of(name: str) -> int:
    """The step at the beginning of a file's name."""
    return int(name.partition("-")[0])


def stems(files: Files, run: str) -> dict[int, str]:
    """Step → name, without suffix, of its valid checkpoint, by increasing step; of two, the newer attempt's."""
    return stems_of(standing(files, run, CHECKPOINTS))


def stems_of(names: Iterable[str]) -> dict[int, str]:
    """The same as `stems`, of the sorted names of the valid files."""
    return {step_of(name): name.removesuffix(".json") for name in names if name.endswith(".json")}


def tensors_file(stem: str) -> str:
    """The file with the tensors of a checkpoint, below the folder of its run."""
    return f"{CHECKPOINTS}/{stem}.safetensors"


def addresses(files: Files, run: str) -> dict[int, str]:
    """The address of the tensors of each step's checkpoint, in increasing order of steps.

    It lists the folder only once, since a run in progress may delete older checkpoints in between.
    """
    return {step: files.address(f"{run}/{tensors_file(stem)}") for step, stem in stems(files, run).items()}
