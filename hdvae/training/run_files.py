"""The files in the folder of a run, and which of them are valid.

    RUN/checkpoints/000000300-0001.safetensors
    RUN/checkpoints/000000300-0001.json        written last; without it the checkpoint is not valid
    RUN/attempts/0002.json                     the files of earlier attempts that the second attempt continues from

The numbers in a name are the step, and the attempt that wrote the file. A run that was killed may be continued by
another process while the first one still writes. Therefore a file of an older attempt is valid only if the record of
the newest attempt lists it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hdvae.errors import Damaged
from hdvae.training.sealed import unseal

ATTEMPTS, CHECKPOINTS = "attempts", "checkpoints"
"""Folders of a run that the library reads."""
_NUMBERED = re.compile(r"\d-(\d{4,})\.\w+$")
_ATTEMPT = re.compile(r"(\d+)\.json")


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

    def warn(self, line: str) -> None:
        """Tell the user of a file that is passed over."""
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

    def warn(self, line: str) -> None:
        """Warn, in Python's way."""
        warnings.warn(line, stacklevel=2)


def attempts(files: Files, run: str) -> list[int]:
    """The numbers of the attempts at a run that have begun, increasing."""
    names = map(_ATTEMPT.fullmatch, files.list(f"{run}/{ATTEMPTS}"))
    return sorted(int(name[1]) for name in names if name)


def newest_attempt(files: Files, run: str) -> int:
    """The number of the newest attempt of a run; 0 before the first one."""
    return max(attempts(files, run), default=0)


@dataclass(frozen=True)
class Taken:
    """What the newest readable record of an attempt says.

    Attributes:
        by: the number of the attempt; 0 without a record.
        owner: the run that the record belongs to; None without a record.
        content: folder → names of the files of earlier attempts that are valid; and what the platform adds.
    """

    by: int = 0
    owner: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    def valid_in(self, folder: str, names: Iterable[str]) -> list[str]:
        """The valid ones among the names in a folder."""
        listed = self.content.get(folder, ())
        return [name for name in names if _NUMBERED.search(name) and (written_by(name) >= self.by or name in listed)]


def taken_over(files: Files, run: str, owner: str | None = None) -> Taken:
    """What the newest attempt has taken over. A record that is damaged is told of, and that of an older attempt used.

    All files of the older attempt and of later ones are then valid: what an attempt that was shut out still wrote is
    the same as what its successor did, to the last bit on the same machine.

    Args:
        files: where the run is.
        run: its folder.
        owner: the run that its files must belong to; None if that is not known.

    Raises:
        InputError: a later version of hdvae wrote the record.
    """
    for number in reversed(attempts(files, run)):
        name = f"{ATTEMPTS}/{number:04d}.json"
        try:
            record = unseal(files.read(f"{run}/{name}"), files.address(f"{run}/{name}"), name, owner)
            return Taken(number, record.run, record.content)
        except Damaged as fault:
            files.warn(str(fault))
    return Taken()


def standing(files: Files, run: str, folder: str, owner: str | None = None) -> list[str]:
    """The valid files in a folder of a run, sorted: those of the newest attempt, and those that it continues from."""
    return valid_files(files, run, folder, owner=owner)[folder]


def valid_files(files: Files, run: str, *folders: str, owner: str | None = None) -> dict[str, list[str]]:
    """The valid files in each of some folders of a run, sorted; the record of the newest attempt is read once."""
    taken = taken_over(files, run, owner)
    return {folder: taken.valid_in(folder, files.list(f"{run}/{folder}")) for folder in folders}


def written_by(name: str) -> int:
    """The number of the attempt that wrote a file, from its name.

    >>> written_by("000000300-0002.json")
    2
    """
    match = _NUMBERED.search(name)
    assert match is not None
    return int(match[1])


def is_of_attempt(name: str, newest: int) -> bool:
    """Whether a file was written by an attempt, up to one; no other files are ever deleted."""
    return _NUMBERED.search(name) is not None and written_by(name) <= newest


def step_of(name: str) -> int:
    """The step at the beginning of a file's name."""
    return int(name.partition("-")[0])


def stems(files: Files, run: str, owner: str | None = None) -> dict[int, str]:
    """Step → name, without suffix, of its valid checkpoint, by increasing step; of two, the newer attempt's."""
    return stems_of(standing(files, run, CHECKPOINTS, owner))


def stems_of(names: Iterable[str]) -> dict[int, str]:
    """The same as `stems`, of the sorted names of the valid files."""
    return {step_of(name): name.removesuffix(".json") for name in names if name.endswith(".json")}


def tensors_file(stem: str) -> str:
    """The file with the tensors of a checkpoint, below the folder of its run."""
    return f"{CHECKPOINTS}/{stem}.safetensors"
