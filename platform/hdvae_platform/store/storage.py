"""Whole files on local disk or S3-like storage, written so that a reader sees all of a file or none of it."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from hdvae.errors import InputError
from hdvae_platform.display.text import duration

T = TypeVar("T")
PERMANENT = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Answers of a storage that is there: to try again would not change them."""
PAUSE = 1.0
"""Seconds between two tries."""
_REFUSED = re.compile("NO_SUCH_BUCKET|ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH")
"""In what S3 says of a bucket that is not there, or not ours."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file: a reader sees the old one, or all of the new one; a failure leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


class StorageAway(OSError):
    """The storage does not take or give files: it is full, or cannot be reached. Nothing is half-written."""


class Storage:
    """A folder on a file system.

    Args:
        root: a local path, or a URL that pyarrow knows (`s3://bucket/prefix`). Where the server is and who asks comes
            from the environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …): addresses are shown and kept.
        patience: seconds for which what fails is tried again.
        say: is told when the storage is away, and when it is back.

    Every method raises `StorageAway` when the storage has failed for longer than `patience`.
    """

    def __init__(self, root: str, patience: float = 0.0, say: Callable[[str], None] = lambda line: None) -> None:
        self.root, self._patience, self._say = root, patience, say
        if "://" in root and re.search("[@?]", root):
            raise InputError(
                f"storage {root.partition('://')[0]}://…: give no password or endpoint in the address, but in "
                "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
            )
        try:
            if "://" in root:
                self._files, self._path = fs.FileSystem.from_uri(root)
            else:
                self._files, self._path = fs.LocalFileSystem(), str(Path(root).absolute())
        except (OSError, ValueError) as fault:
            raise InputError(f"storage {root}: {fault}") from None
        self._local = isinstance(self._files, fs.LocalFileSystem)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do something again until it works, or the storage gives an answer."""
        limit, away = time.monotonic() + self._patience, False
        while True:
            try:
                result = act()
            except PERMANENT:
                raise
            except OSError as fault:
                line = f"storage {self.root}: {_reason(fault)}"
                if time.monotonic() >= limit:
                    raise StorageAway(line) from fault
                if not away:
                    self._say(f"{line}; trying again for {duration(self._patience)}")
                away = True
                time.sleep(PAUSE)
            else:
                if away:
                    self._say(f"storage {self.root} answers again")
                return result

    def check(self) -> None:
        """See that the storage takes files from us. One that is away or full is left to those who wait for it.

        Raises:
            InputError: it does not, and says so.
        """
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self._write(probe, b"")
            self._files.delete_file(self._at(probe))
        except OSError as fault:
            if isinstance(fault, PERMANENT) or _REFUSED.search(str(fault)):
                raise InputError(f"storage {self.root} takes no files: {_reason(fault)}; check HDVAE_STORAGE") from None

    def address(self, name: str) -> str:
        """What a person can use to find a file."""
        return f"{self.root.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file: on local disk by a rename, and an S3 object is there when its last byte is."""
        self._patiently(lambda: self._write(name, data))

    def _write(self, name: str, data: bytes) -> None:
        target = self._at(name)
        if not self._local:
            with self._files.open_output_stream(target) as stream:
                stream.write(data)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(target), data)

    def read(self, name: str) -> bytes:
        """Read a whole file; FileNotFoundError if there is none."""
        return self._patiently(lambda: self._read(name))

    def _read(self, name: str) -> bytes:
        with self._files.open_input_stream(self._at(name)) as stream:
            data: bytes = stream.read()
        return data

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        return self._patiently(lambda: bool(self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound))

    def list(self, folder: str) -> list[str]:
        """Names of the whole files and folders in a folder, sorted; none if there is no such folder."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        names = self._patiently(lambda: [info.base_name for info in self._files.get_file_info(selector)])
        return sorted(name for name in names if not name.startswith("."))

    def delete_file(self, name: str) -> None:
        """Delete a file; it is no error if another has done so."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self._files.delete_file(self._at(name)))

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it; it is no error if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self._files.delete_dir(self._at(name)))


def _reason(fault: OSError) -> str:
    return fault.strerror or str(fault).splitlines()[0]
