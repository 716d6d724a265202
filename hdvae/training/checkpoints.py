"""The format of checkpoints: safetensors and JSON, which contain no code that could run when they are read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from hdvae.errors import InputError
from hdvae.training.run_files import CHECKPOINTS, Files, Folder, stems
from hdvae.training.snapshot import Snapshot

FORMAT = 1


class Damaged(Exception):
    """A checkpoint differs from what was written. The message says how."""


def encode(snapshot: Snapshot, step: int) -> tuple[bytes, bytes]:
    """The contents of the two files of a checkpoint: its tensors, and the manifest with their checksum."""
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
    """Read the checkpoint in the files `stem.json` and `stem.safetensors`.

    Raises:
        Damaged: a file is missing or damaged.
    """
    address = files.address(f"{stem}.safetensors")
    try:
        manifest: dict[str, Any] = json.loads(files.read(f"{stem}.json"))
        data = files.read(f"{stem}.safetensors")
        if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise Damaged(f"{address}: size or checksum differs from the manifest")
        return Snapshot(load(data), manifest["values"])
    except (FileNotFoundError, KeyError, ValueError, SafetensorError) as fault:
        raise Damaged(f"{address}: {fault}") from fault


def newest(files: Files, run: str) -> tuple[Snapshot | None, list[str]]:
    """The newest readable checkpoint of a run, if there is one, and the faults of newer ones."""
    faults: list[str] = []
    for stem in reversed(stems(files, run).values()):
        try:
            return read_checkpoint(files, f"{run}/{CHECKPOINTS}/{stem}"), faults
        except Damaged as fault:
            faults.append(str(fault))
    return None, faults


def read_address(address: str, place: Callable[[str], Files] = Folder) -> Snapshot:
    """Read the checkpoint at an address.

    Args:
        address: the folder of a run or its `checkpoints` folder, for the newest readable checkpoint; or one
            `.safetensors` file in there.
        place: opens the file system of a root folder.

    Raises:
        InputError: there is no readable checkpoint.
        Damaged: the given file is damaged.
    """
    address = address.rstrip("/")
    one = re.fullmatch(rf"(.*)/{CHECKPOINTS}/([\d-]+)\.safetensors", address)
    if one is not None:
        return read_checkpoint(place(one[1]), f"{CHECKPOINTS}/{one[2]}")
    root, _, folder = address.removesuffix(f"/{CHECKPOINTS}").rpartition("/")
    snapshot, faults = newest(place(root or "."), folder)
    if snapshot is None:
        raise InputError(f"run {address}: " + (faults[0] if faults else "no checkpoint there"))
    return snapshot
