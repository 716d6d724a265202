"""The files in the folder of a run, by their names, and which of them count.

    RUN/checkpoints/000000300-0001.safetensors
    RUN/checkpoints/000000300-0001.json        written last: it makes the checkpoint valid
    RUN/attempts/0002.json                     what stood of the earlier attempts when the second began

The numbers are the step, and the attempt at the run that wrote the file. A run that was killed may go on elsewhere
while its first process still writes: of an older attempt only those files count that the record of the newest lists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Protocol

_NUMBERED = re.compile(r"-(\d{4,})\.")


class Files(Protocol):
    """A place with files, of which names are relative to its root."""

    def list(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none if there is no such folder."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file; FileNotFoundError if there is none."""
        ...

    def address(self, name: str) -> str:
        """What a person can use to find a file."""
        ...


class Folder:
    """A folder on this machine."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def list(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none if there is no such folder."""
        path = self._root / folder
        names = [file.name for file in path.iterdir()] if path.is_dir() else []
        return sorted(name for name in names if not name.startswith("."))

    def read(self, name: str) -> bytes:
        """A whole file; FileNotFoundError if there is none."""
        return (self._root / name).read_bytes()

    def address(self, name: str) -> str:
        """Its path."""
        return str(self._root / name)


def newest_attempt(files: Files, run: str) -> int:
    """The number of the newest attempt at a run; 0 before the first."""
    return max((int(name.removesuffix(".json")) for name in files.list(f"{run}/attempts")), default=0)


def standing(files: Files, run: str, folder: str) -> list[str]:
    """The files of a run's folder that count: the newest attempt's, and those that it took over; sorted."""
    newest = newest_attempt(files, run)
    taken = json.loads(files.read(f"{run}/attempts/{newest:04d}.json"))[folder] if newest else []
    return [name for name in files.list(f"{run}/{folder}") if name in taken or written_by(name) == newest]


def written_by(name: str) -> int:
    """The attempt whose number a file's name holds.

    >>> written_by("000000300-0002.json")
    2
    """
    found = _NUMBERED.search(name)
    return int(found[1]) if found else 0


def step_of(name: str) -> int:
    """The step whose number a file's name begins with."""
    return int(name.partition("-")[0])


def stems(files: Files, run: str) -> dict[int, str]:
    """Step → the name of its checkpoint without suffix, steps increasing; of two attempts at a step the newer one's."""
    names = [name for name in standing(files, run, "checkpoints") if name.endswith(".json")]
    return {step_of(name): name.removesuffix(".json") for name in names}


def addresses(files: Files, run: str) -> dict[int, str]:
    """Step → where the tensors of its checkpoint are, steps increasing.

    From one look: a run at work drops older ones.
    """
    return {step: files.address(f"{run}/checkpoints/{stem}.safetensors") for step, stem in stems(files, run).items()}
