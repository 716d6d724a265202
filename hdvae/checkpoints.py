"""Checkpoints as they lie in the folder of a run: safetensors and JSON, nothing that executes when it is read.

    RUN/checkpoints/000000300-0001.safetensors
    RUN/checkpoints/000000300-0001.json        written last: it makes the checkpoint valid
    RUN/attempts/0002.json                     what stood of the earlier attempts when the second began

The numbers are the step, and the attempt at the run that wrote the file. A run that was killed may go on elsewhere
while its first process still writes: of an older attempt only those files count that the record of the newest lists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save

from hdvae.errors import InputError
from hdvae.training import Snapshot

FORMAT = 1
_NUMBERED = re.compile(r"-(\d{4,})\.")


class Damaged(Exception):
    """A checkpoint that is not what was written; the text says how."""


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


def encode(snapshot: Snapshot, step: int) -> tuple[bytes, bytes]:
    """The two files of a checkpoint: its tensors, and the manifest that makes them valid."""
    data = save({name: tensor.cpu().contiguous() for name, tensor in snapshot.tensors.items()})
    manifest = {
        "format": FORMAT,
        "step": step,
        "values": dict(snapshot.values),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return data, json.dumps(manifest, indent=1).encode()


def read_checkpoint(files: Files, stem: str) -> Snapshot:
    """Read the checkpoint whose files are `stem` with `.json` and `.safetensors`.

    Raises:
        Damaged: it is not what was written.
    """
    address = files.address(f"{stem}.safetensors")
    try:
        manifest: dict[str, Any] = json.loads(files.read(f"{stem}.json"))
        data = files.read(f"{stem}.safetensors")
        if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise Damaged(f"{address}: size or checksum differs from its manifest")
        return Snapshot(load(data), manifest["values"])
    except (FileNotFoundError, KeyError, ValueError, SafetensorError) as fault:
        raise Damaged(f"{address}: {fault}") from fault


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


def newest(files: Files, run: str) -> tuple[Snapshot | None, list[str]]:
    """The newest checkpoint of a run that can be read, and what was wrong with newer ones."""
    faults: list[str] = []
    for stem in reversed(stems(files, run).values()):
        try:
            return read_checkpoint(files, f"{run}/checkpoints/{stem}"), faults
        except Damaged as fault:
            faults.append(str(fault))
    return None, faults


def read_address(address: str, place: Callable[[str], Files] = Folder) -> Snapshot:
    """The checkpoint at an address: of a run's folder or its `checkpoints` folder the newest that can be read.

    Args:
        address: a run's folder, its `checkpoints` folder, or one `.safetensors` file in it.
        place: opens the place at a root.

    Raises:
        InputError: there is none.
        Damaged: the one that is named is not what was written.
    """
    address = address.rstrip("/")
    one = re.fullmatch(r"(.*)/checkpoints/([\d-]+)\.safetensors", address)
    if one is not None:
        return read_checkpoint(place(one[1]), f"checkpoints/{one[2]}")
    root, _, folder = address.removesuffix("/checkpoints").rpartition("/")
    snapshot, faults = newest(place(root or "."), folder)
    if snapshot is None:
        raise InputError(f"run {address}: " + (faults[0] if faults else "no checkpoint there"))
    return snapshot
