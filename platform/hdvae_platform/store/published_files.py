"""The published files that data sets are made from: downloaded or read from a local folder, and verified."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hdvae.data.loading import is_there
from hdvae.errors import InputError
from hdvae.version import __version__

TIMEOUT_S = 30.0
"""Seconds for which a server may stay silent."""

Progress = Callable[[str], None]
"""Called with a line about what begins."""


@dataclass(frozen=True)
class Source:
    """One published file that a data set is made from.

    Attributes:
        filename: its published name; a local folder may also have it as `FILENAME.gz`.
        digest: `sha256:HEX` or `md5:HEX` of the published file.
        url: where to download it; None if it can only be read from a local folder.
        recompressed: whether copies exist that were compressed again and so have another digest. A local copy is then
            verified by the images that it yields, and the build must have a content checksum.
    """

    filename: str
    digest: str
    url: str | None = None
    recompressed: bool = False


def copies(file: Source, folder: Path) -> list[Path]:
    """The copies of a file in a folder: plain, gzipped, or both."""
    candidates = (folder / file.filename, folder / f"{file.filename}.gz")
    return [path for path in candidates if is_there(path)]


def obtain(name: str, file: Source, source: Path | None, progress: Progress) -> bytes:
    """Read the bytes of one file from the folder `source`, or download them, and verify them.

    Raises:
        InputError: if the file cannot be read or downloaded, or has the wrong checksum.
    """
    if source is not None:
        path = copies(file, source)[0]
        progress(f"{name}: reading {path}")
        data = _read_local(path, file)
        return data if file.recompressed else _verified(data, file, str(path))
    if file.url is None:
        raise InputError(f"{file.filename} has no public address: use `hdvae data fetch {name} --from DIR`")
    progress(f"{name}: downloading {file.url}")
    return _verified(_download(name, file.url), file, file.url)


def _read_local(path: Path, file: Source) -> bytes:
    """Read a local copy, unpacked if it is gzipped."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return data if path.name == file.filename else gunzip(str(path), data)


def _download(name: str, url: str) -> bytes:
    """Download a file into memory.

    Raises:
        InputError: if the server cannot be reached, refuses, or does not send all of it.
    """
    # S310 warns of other schemes than http; the addresses are those of the registry, not a user's.
    request = urllib.request.Request(url, headers={"User-Agent": f"hdvae/{__version__}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the server's response, with an open connection
        raise InputError(
            f"cannot download {url} ({_reason(error)}): get the files elsewhere and run "
            f"`hdvae data fetch {name} --from DIR`"
        ) from error
    return data


def _reason(error: Exception) -> str:
    """Why a download failed, in one line."""
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
        InputError: if they do not have it.
    """
    got = digest_like(file.digest, data)
    if got != file.digest:
        raise InputError(
            f"{where} is not the known {file.filename}: expected {file.digest}, "
            f"got {got} ({len(data)} bytes); get the file again"
        )
    return data


def digest_like(digest: str, data: bytes) -> str:
    """The digest of bytes by the algorithm of another digest, in the same form: ALGORITHM:HEX."""
    algorithm = digest.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()}"


def gunzip(where: str, data: bytes) -> bytes:
    """Unpack gzip.

    Raises:
        InputError: if the bytes are not gzip, or are truncated.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where} cannot be unpacked: {error}; get the file again") from error
