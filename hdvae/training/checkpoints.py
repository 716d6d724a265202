"""What is in the checkpoints of a run: safetensors and JSON, nothing that executes when it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from hdvae.errors import InputError
from hdvae.training.run_files import Files, Folder, stems
from hdvae.training.snapshot import Snapshot

FORMAT = 1


class Damaged(Exception):
    """A checkpoint that is not what was written; the text says how."""


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
