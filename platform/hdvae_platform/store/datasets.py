"""The data sets in the home folder: what is there, and fetching what is not.

Everything is verified before anything is written: each file by its own checksum, then the images by the checksum of
the known content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdvae.data.dataset import SPLITS, Dataset
from hdvae.data.loading import is_there
from hdvae.data.overlap import Overlap, overlaps
from hdvae.data.parquet import parquet_path, read_parquet, write_parquet
from hdvae.errors import InputError
from hdvae_platform.store.catalogue import CATALOGUE, Build, Entry, check_name
from hdvae_platform.store.published_files import Progress, Source, copies, digest_like, obtain


@dataclass(frozen=True)
class State:
    """The state of one data set in the home folder.

    Attributes:
        name: of the data set.
        title: a short description.
        state: `fetched`, `not fetched` or `damaged: REASON`.
        path: of its Parquet file, which may not exist yet.
        counts: images per split, if fetched.
        checksum: of its content, if fetched.
        provenance: where it comes from, if fetched.
        overlaps: the images that stand in two splits, if fetched and asked for.
    """

    name: str
    title: str
    state: str
    path: str
    counts: Mapping[str, int] | None = None
    checksum: str | None = None
    provenance: Mapping[str, Any] | None = None
    overlaps: Sequence[Overlap] | None = None


def state(home: Path, *, details: bool = False) -> list[State]:
    """The state of every known data set; reads and checks those that are fetched, with `details` for overlaps too."""
    return [state_of(home, name, details=details) for name in CATALOGUE]


def state_of(home: Path, name: str, *, details: bool = False) -> State:
    """The state of one known data set."""
    entry, path = CATALOGUE[name], parquet_path(home, name)
    if not is_there(path):
        return State(name, entry.title, "not fetched", str(path))
    try:
        dataset = _read(path, name, entry)
    except InputError as error:
        return State(name, entry.title, f"damaged: {error}", str(path))
    counts = {split: dataset.size(split) for split in SPLITS}
    shared = overlaps(dataset) if details else None
    return State(name, entry.title, "fetched", str(path), counts, dataset.checksum, dataset.provenance, shared)


def _read(path: Path, name: str, entry: Entry) -> Dataset:
    """Read a fetched data set.

    Raises:
        InputError: if the file is damaged, or intact but not a known build of this data set.
    """
    dataset = read_parquet(path)
    label = dataset.provenance.get("build")
    known = {build.label: build.content for build in entry.builds}
    if dataset.name != name or label not in known or known[label] not in (None, dataset.checksum):
        raise InputError(f"{path} is no known build of '{name}': run `hdvae data fetch {name}`")
    return dataset


def fetch(
    home: Path,
    name: str,
    source: Path | None = None,
    progress: Progress = lambda line: None,
    catalogue: Mapping[str, Entry] = CATALOGUE,
) -> Dataset:
    """Fetch a data set into the home folder, unless it is there and intact.

    Args:
        home: the home folder.
        name: of the data set.
        source: local folder from which the files are read; without it they are downloaded.
        progress: called with a line about what begins.
        catalogue: the known data sets.

    Raises:
        InputError: if the name is unknown, a file cannot be read or downloaded or is not the known one, another build
            is there already, or the data set cannot be written. Nothing is written then.
    """
    check_name(name, catalogue)
    entry = catalogue[name]
    path = parquet_path(home, name)
    kept = _kept(path, name, entry, source, progress)
    if kept is not None:
        return kept
    build = _choose(name, entry, source)
    files = [obtain(name, file, source, progress) for file in build.sources]
    dataset = _assemble(name, build, files)
    write_parquet(dataset, path)
    return dataset


def _kept(path: Path, name: str, entry: Entry, source: Path | None, progress: Progress) -> Dataset | None:
    """The data set that is already at `path`; None if there is none or it is damaged.

    Raises:
        InputError: if it is another build than the one that would be made.
    """
    if not is_there(path):
        return None
    try:
        dataset = _read(path, name, entry)
    except InputError as error:
        progress(f"{error}; fetching it again")
        return None
    label = dataset.provenance["build"]
    if any(build.label != label for build in entry.builds):
        wanted = _choose(name, entry, source).label
        if label != wanted:
            raise InputError(
                f"'{name}' is already fetched, from '{label}' and not from '{wanted}', "
                f"whose images differ: delete {path} first"
            )
    return dataset


def _choose(name: str, entry: Entry, source: Path | None) -> Build:
    """The build to make: the first, or the first whose files are all in the folder `source`.

    Raises:
        InputError: if there is no such folder, or files are missing in it.
    """
    if source is None:
        return entry.builds[0]
    if not (is_there(source) and source.is_dir()):
        raise InputError(f"{source} is not a folder: --from takes the folder with the files of '{name}'")
    for build in entry.builds:
        if all(copies(file, source) for file in build.sources):
            return build
    sets = [[_name_in(file, source) for file in build.sources] for build in entry.builds]
    looked_for = " or else ".join(", ".join(files) for files in sets)
    raise InputError(f"{source} lacks files of '{name}': looked for {looked_for} (each may be gzipped, as FILE.gz)")


def _name_in(file: Source, folder: Path) -> str:
    """The name of a file, and whether it is missing in a folder."""
    return file.filename if copies(file, folder) else f"{file.filename} (missing)"


def _assemble(name: str, build: Build, files: list[bytes]) -> Dataset:
    """Make a data set from the bytes of its sources.

    Raises:
        InputError: if the images are not the known ones.
    """
    images, labels = build.make(*files)
    digests = {file.filename: digest_like(file.digest, data) for file, data in zip(build.sources, files, strict=True)}
    provenance = {"build": build.label, "made_from": build.made_from, "files": digests}
    dataset = Dataset.from_images(name, images, labels, provenance)
    if build.content not in (None, dataset.checksum):
        made_from = ", ".join(digests) or build.made_from
        raise InputError(
            f"'{name}': the images made from {made_from} are not the known ones "
            f"(content expected {build.content}, got {dataset.checksum})"
        )
    return dataset
