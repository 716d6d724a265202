"""Finding a trained run by what a user has at hand: an MLflow run id, or a checkpoint on disk or storage."""

from __future__ import annotations

from pathlib import Path

from hdvae.errors import InputError
from hdvae.trained import TrainedModel
from hdvae.training.checkpoints import Damaged, read_address
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import Tag


def load_model(run: str, home: Path) -> TrainedModel:
    """See `hdvae_platform.load`."""
    if run.startswith("models:"):
        return Client(Places.known(home, "tracking")).registered(run)
    run = run.removeprefix("runs:/")
    return TrainedModel.of(load_run(run, places_of(run, home)))


def places_of(run: str, home: Path) -> Places:
    """The places in which a run is looked for: one that goes by MLflow's id is in a home that was used before.

    Raises:
        InputError: nothing is in the home, and the run is no folder.
    """
    return Places.under(home) if _is_address(run) else Places.known(home, "tracking")


def load_run(run: str, places: Places) -> Snapshot:
    """The newest readable checkpoint of a run.

    Args:
        run: an MLflow run id; or a run's folder, its `checkpoints` folder, or one `.safetensors` file in it.
        places: where MLflow is.

    Raises:
        InputError: there is no such run, or it has no readable checkpoint.
    """
    address = run if _is_address(run) else _address(run, places)
    try:
        return read_address(address, Storage)
    except (OSError, Damaged) as fault:
        raise InputError(f"run {run}: {fault}") from None


def _is_address(run: str) -> bool:
    return "/" in run or Path(run).exists()


def _address(run_id: str, places: Places) -> str:
    found = Client(places).get(run_id)
    if found is None:
        raise InputError(f"run {run_id}: no such MLflow run, nor a folder; ids are in `hdvae study status NAME --json`")
    address = found.tags.get(Tag.CHECKPOINT)
    if not address:
        raise InputError(f"run {run_id} has no checkpoint yet")
    return address
