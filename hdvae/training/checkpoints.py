"""The format of checkpoints: safetensors and JSON, which contain no code that could run when they are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from hdvae.errors import Damaged, InputError
from hdvae.training.run_files import CHECKPOINTS, Files, Folder, stems_of, taken_over
from hdvae.training.sealed import seal, unseal
from hdvae.training.snapshot import Snapshot


def encode(snapshot: Snapshot, step: int, run: str = "", stem: str = "") -> tuple[bytes, bytes]:
    """The contents of the two files of a checkpoint: its tensors, and the manifest with their checksum.

    Args:
        snapshot: what is kept.
        step: of the snapshot.
        run: the folder of its run, below the storage root; empty for a model outside a run.
        stem: the name of both files in that folder, without suffix.
    """
    data = save({name: tensor.cpu().contiguous() for name, tensor in snapshot.tensors.items()})
    tensors = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return data, seal(run, f"{stem}.json", {"step": step, "values": dict(snapshot.values), "tensors": tensors})


def read_manifest(files: Files, run: str, stem: str, owner: str | None = None) -> dict[str, Any]:
    """The manifest of a checkpoint: `step`, `values`, and `bytes` and `sha256` of its `tensors`.

    Raises:
        Damaged: it is missing, damaged, or belongs elsewhere.
        InputError: a later version of hdvae wrote it.
    """
    address = files.address(f"{run}/{stem}.json")
    try:
        return unseal(files.read(f"{run}/{stem}.json"), address, f"{stem}.json", owner).content
    except FileNotFoundError as fault:
        raise Damaged(f"{address}: {fault}") from fault


def read_checkpoint(files: Files, run: str, stem: str, owner: str | None = None) -> Snapshot:
    """Read the checkpoint in the files `stem.json` and `stem.safetensors` in the folder of a run.

    Raises:
        Damaged: a file is missing, damaged, or belongs elsewhere.
        InputError: a later version of hdvae wrote it.
    """
    manifest, tensors_file = read_manifest(files, run, stem, owner), f"{run}/{stem}.safetensors"
    address = files.address(tensors_file)
    try:
        data = files.read(tensors_file)
        written = manifest["tensors"]
        if len(data) != written["bytes"] or hashlib.sha256(data).hexdigest() != written["sha256"]:
            raise Damaged(f"{address} is damaged: size or checksum differs from its manifest")
        return Snapshot(load(data), manifest["values"])
    except FileNotFoundError as fault:
        raise Damaged(f"{address}: {fault}") from fault
    except (KeyError, SafetensorError) as fault:
        raise Damaged(f"{address} is no checkpoint: {fault}") from fault


def newest(
    files: Files, run: str, owner: str | None = None, without: Collection[int] = ()
) -> tuple[Snapshot | None, list[str]]:
    """The newest readable checkpoint of a run, if there is one, and the faults of newer ones.

    Args:
        files: where the run is.
        run: its folder.
        owner: the run that its files must belong to; None where only its attempts say which.
        without: the steps of checkpoints that are passed over.
    """
    taken, faults = taken_over(files, run, owner), list[str]()
    kept = stems_of(taken.valid_in(CHECKPOINTS, files.list(f"{run}/{CHECKPOINTS}")))
    for stem in [kept[step] for step in reversed(kept) if step not in without]:
        try:
            return read_checkpoint(files, run, f"{CHECKPOINTS}/{stem}", owner or taken.owner), faults
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
        root, _, folder = one[1].rpartition("/")
        files = place(root or ".")
        return read_checkpoint(files, folder, f"{CHECKPOINTS}/{one[2]}", taken_over(files, folder).owner)
    root, _, folder = address.removesuffix(f"/{CHECKPOINTS}").rpartition("/")
    files = place(root or ".")
    snapshot, faults = newest(files, folder)
    if snapshot is not None:
        for fault in faults:
            files.warn(f"{fault}; an older checkpoint is read")
    else:
        raise InputError(f"run {address}: " + (faults[0] if faults else "no checkpoint there"))
    return snapshot
