"""Finding a trained run by what a user has at hand: an MLflow run id, or a checkpoint on disk or storage."""

from __future__ import annotations

import re
from pathlib import Path

from hdvae.errors import InputError
from hdvae.training import Snapshot
from hdvae_platform.checkpointing import Checkpoints, Damaged, read_checkpoint
from hdvae_platform.places import Places
from hdvae_platform.storage import Storage
from hdvae_platform.tracking import Client


def load_run(run: str, places: Places) -> Snapshot:
    """The newest readable checkpoint of a run.

    Args:
        run: an MLflow run id; or a run's folder, its `checkpoints` folder, or one `.safetensors` file in it.
        places: where MLflow is.

    Raises:
        InputError: there is no such run, or it has no readable checkpoint.
    """
    address = run if "/" in run or Path(run).exists() else _address(run, places)
    try:
        return _load(address.rstrip("/"))
    except (OSError, Damaged) as fault:
        raise InputError(f"run {run}: {fault}") from None


def _address(run_id: str, places: Places) -> str:
    found = Client(places).get(run_id)
    if found is None:
        raise InputError(f"run {run_id}: no such MLflow run, nor a folder; ids are in `hdvae study status NAME --json`")
    address = found.tags.get("hdvae.checkpoint")
    if not address:
        raise InputError(f"run {run_id} has no checkpoint yet")
    return address


def _load(address: str) -> Snapshot:
    one = re.fullmatch(r"(.*)/checkpoints/([\d-]+)\.safetensors", address)
    if one is not None:
        return read_checkpoint(Storage(one[1]), f"checkpoints/{one[2]}")
    root, _, folder = address.removesuffix("/checkpoints").rpartition("/")
    checkpoints = Checkpoints(Storage(root or "."), folder)
    snapshot, faults = checkpoints.latest()
    if snapshot is None:
        raise InputError(f"run {address}: " + (faults[0] if faults else "no checkpoint there"))
    return snapshot
