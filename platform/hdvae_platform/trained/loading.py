"""Finding a trained run by any of its names: the only place where a RUN is turned into weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hdvae.errors import Damaged, InputError
from hdvae.trained import TrainedModel
from hdvae.training.checkpoints import read_address
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store import handles
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import MODEL_SCHEME, RUN_SCHEME, Tag

Say = Callable[[str], None]
"""Tells the user of damaged files that are passed over."""
Form = Literal["address", "handle", "id", "model"]
"""What the name of a run is: the address of its folder or of a checkpoint, its handle, MLflow's id, or the address of a
registered model."""
_ID = re.compile(r"[0-9a-f]{32}")
"""What MLflow's ids of runs look like."""


@dataclass(frozen=True)
class FoundRun:
    """A trained run that was found by one of its names.

    Attributes:
        name: the name that the user gave.
        load: reads its newest readable checkpoint. Raises `InputError` if it has none.
        run_id: of the run in MLflow; None if it was found by an address, or MLflow has no record of it yet.
        handle: how people name it: `STUDY/TRIAL/SEED`, MLflow's id for a run outside a study; None for an address.
        note: what the user should know about the choice; None if there is nothing to say.
    """

    name: str
    load: Callable[[], Snapshot]
    run_id: str | None = None
    handle: str | None = None
    note: str | None = None


def load_model(run: str, home: Path) -> TrainedModel:
    """See `hdvae_platform.load`."""
    found = find_run(run, places_of(run, home))
    if found.note is not None:
        warnings.warn(found.note, stacklevel=3)  # at the line that calls `hdvae_platform.load`
    return TrainedModel.of(found.load())


def places_of(run: str, home: Path) -> Places:
    """The places in which a run is looked for.

    Raises:
        InputError: the run is not named by an address, and the home folder lacks the store that knows its name.
    """
    match _form(run):
        case "address":
            return Places.under(home)
        case "handle":
            return Places.known(home, "database")
        case "id" | "model":
            return Places.known(home, "tracking")


def load_run(run: str, places: Places) -> Snapshot:
    """The newest readable checkpoint of a run, named as in `find_run`.

    Raises:
        InputError: there is no such run, or it has no readable checkpoint.
    """
    return find_run(run, places).load()


def find_run(run: str, places: Places, say: Say = warnings.warn) -> FoundRun:
    """Find a run by its name.

    Args:
        run: a handle, `STUDY/TRIAL/SEED` or `STUDY/best`; MLflow's id, or `runs:/ID`; a registered model,
            `models:/NAME/VERSION` or `models:/NAME/latest`; or the address, on disk or S3, of a run's folder, of its
            `checkpoints` folder, or of one `.safetensors` file in it. A file or folder that exists wins over a handle
            and an id of the same name; `FoundRun.note` says so.
        places: where the stores are.
        say: called by `FoundRun.load` with a line for each damaged file that it passes over.

    Raises:
        InputError: there is no such run.
    """
    match _form(run):
        case "address":
            return FoundRun(run, _reader(run, run, say), note=_note(run))
        case "handle":
            return _by_handle(run, places, say)
        case "id":
            return _by_id(run, places, say)
        case "model":
            return _by_model(run, places)


def _form(run: str) -> Form:
    if Path(run).exists():
        return "address"
    if run.startswith(MODEL_SCHEME):
        return "model"
    if run.startswith(RUN_SCHEME):
        return "id"
    if handles.parse(run) is not None:
        return "handle"
    return "address" if "/" in run else "id"


def _note(path: str) -> str | None:
    """Says that a path was taken, where its text could also name a run of a study or of MLflow."""
    other = "a handle" if handles.parse(path) is not None else "an MLflow id" if _ID.fullmatch(path) else None
    return None if other is None else f"{path} exists as a file or folder here, so it is not looked up as {other}"


def _by_handle(run: str, places: Places, say: Say) -> FoundRun:
    found = handles.resolve(run, Records(places.database))
    address = Storage(places.storage).address(found.folder)
    return FoundRun(run, _reader(run, address, say), found.run_id, found.handle)


def _by_id(run: str, places: Places, say: Say) -> FoundRun:
    run_id = run.removeprefix(RUN_SCHEME)
    tracked = Client(places).get(run_id)
    if tracked is None:
        raise InputError(
            f"run {run}: no such MLflow run, nor a folder; `hdvae study status NAME` shows the runs of a study, which "
            f"are named {handles.FORMS}"
        )
    address = tracked.tags.get(Tag.CHECKPOINT)
    if not address:
        raise InputError(f"run {run} has no checkpoint yet")
    return FoundRun(run, _reader(run, address, say), run_id, tracked.handle)


def _by_model(uri: str, places: Places) -> FoundRun:
    client = Client(places)
    run_id = client.run_of_model(uri)
    tracked = client.get(run_id)
    return FoundRun(
        uri, lambda: client.registered(uri).snapshot(), run_id, run_id if tracked is None else tracked.handle
    )


def _reader(run: str, address: str, say: Say) -> Callable[[], Snapshot]:
    def read() -> Snapshot:
        try:
            return read_address(address, lambda root: Storage(root, say=say))
        except (OSError, Damaged) as fault:
            raise InputError(f"run {run}: {fault}") from None

    return read
