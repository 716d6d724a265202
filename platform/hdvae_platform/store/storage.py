"""Files on local disk or S3-like storage, written so that a reader sees a complete file or none."""

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
PERMANENT_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of a storage that works: trying again would not help."""
RETRY_PAUSE = 1.0
"""Seconds between two tries."""
_REFUSED = re.compile("NO_SUCH_BUCKET|ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH")
"""Words in S3's errors about a bucket that does not exist, or that this user may not use."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file: a reader sees the old or the complete new one; a failure leaves nothing behind."""
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
    """The storage is full or cannot be reached. Nothing is half-written."""


class Storage:
    """A folder on a file system.

    Args:
        root: a local path, or a URL that pyarrow knows (`s3://bucket/prefix`). The endpoint and the credentials come
            from the environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …), since addresses are printed and recorded.
        patience: seconds for which a failed operation is repeated.
        say: called with a line when the storage stops answering, when it answers again, and for each damaged file that
            is passed over.

    Every method raises `StorageAway` when the storage has failed for longer than `patience`.
    """

    def __init__(self, root: str, patience: float = 0.0, say: Callable[[str], None] = lambda line: None) -> None:
        self.root, self._patience, self._say = root, patience, say
        self._told: set[str] = set()
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
        """Do something; while the storage is full or does not answer, do it again."""
        limit, away = time.monotonic() + self._patience, False
        while True:
            try:
                result = act()
            except PERMANENT_ERRORS:
                raise
            except OSError as fault:
                line = f"storage {self.root}: {_reason(fault)}"
                if time.monotonic() >= limit:
                    raise StorageAway(line) from fault
                if not away:
                    self._say(f"{line}; trying again for {duration(self._patience)}")
                away = True
                time.sleep(RETRY_PAUSE)
            else:
                if away:
                    self._say(f"storage {self.root} answers again")
                return result

    def check(self) -> None:
        """Check that the storage accepts files. Being full or not answering is no error here: writes wait for that.

        Raises:
            InputError: the storage refuses files.
        """
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self._write(probe, b"")
            self._files.delete_file(self._at(probe))
        except OSError as fault:
            if isinstance(fault, PERMANENT_ERRORS) or _REFUSED.search(str(fault)):
                raise InputError(
                    f"storage {self.root} does not accept files: {_reason(fault)}; check HDVAE_STORAGE"
                ) from None

    def address(self, name: str) -> str:
        """The address of a file, for people."""
        return f"{self.root.rstrip('/')}/{name}"

    def warn(self, line: str) -> None:
        """Tell the user of a file that is passed over, once."""
        if line not in self._told:
            self._told.add(line)
            self._say(line)

    def write(self, name: str, data: bytes) -> None:
        """Write a file: on local disk by a rename; on S3 an object exists once its last byte is written."""
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
        """Read a file; FileNotFoundError if there is none."""
        return self._patiently(lambda: self._read(name))

    def _read(self, name: str) -> bytes:
        with self._files.open_input_stream(self._at(name)) as stream:
            data: bytes = stream.read()
        return data

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder with this name."""
        return self._patiently(lambda: bool(self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound))

    def _list(self, folder: str) -> list[str]:
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        try:
            found = self._files.get_file_info(selector)
        except FileNotFoundError:  # it did not exist, and was made before pyarrow asked whether that is an error
            found = self._files.get_file_info(selector)
        return [info.base_name for info in found]

    def list(self, folder: str) -> list[str]:
        """The sorted names of the files and folders in a folder, without half-written files; empty if there is none."""
        names = self._patiently(lambda: self._list(folder))
        return sorted(name for name in names if not name.startswith("."))

    def delete_file(self, name: str) -> None:
        """Delete a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self._files.delete_file(self._at(name)))

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all files in it, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self._files.delete_dir(self._at(name)))


def _reason(fault: OSError) -> str:
    return fault.strerror or str(fault).splitlines()[0]
