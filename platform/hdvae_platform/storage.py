"""Whole files on local disk or S3-like storage, written so that a reader sees all of a file or none of it."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from pyarrow import fs

from hdvae.errors import InputError


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


class Storage:
    """A folder on a file system.

    Args:
        root: a local path, or a URL that pyarrow knows (`s3://bucket/prefix`).
    """

    def __init__(self, root: str) -> None:
        self.root = root
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

    def address(self, name: str) -> str:
        """What a person can use to find a file."""
        return f"{self.root.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file. On local disk atomically, as on storage that has no partial files."""
        target = self._at(name)
        if not self._local:
            with self._files.open_output_stream(target) as stream:
                stream.write(data)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(target), data)

    def read(self, name: str) -> bytes:
        """Read a whole file; FileNotFoundError if there is none."""
        with self._files.open_input_stream(self._at(name)) as stream:
            data: bytes = stream.read()
        return data

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        return bool(self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound)

    def list(self, folder: str) -> list[str]:
        """Names of the whole files and folders in a folder, sorted; none if there is no such folder."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        names = [info.base_name for info in self._files.get_file_info(selector)]
        return sorted(name for name in names if not name.startswith("."))

    def delete_file(self, name: str) -> None:
        """Delete a file; it is no error if another has done so."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._at(name))
