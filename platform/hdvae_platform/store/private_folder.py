"""Folders for temporary files that no other user of this machine can enter."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from hdvae.errors import InputError


def private_folder(name: str, within: Path | None = None) -> Path:
    """A folder of this user's among the temporary files, which is made if it is not there.

    Args:
        name: what it is for; the number of the user is added.
        within: where it is, by default the folder for temporary files.

    Raises:
        InputError: somebody else has made a file or folder of this name, which anybody can do there.
    """
    folder = (within or Path(tempfile.gettempdir())) / f"{name}-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(f"{folder} belongs to another user of this machine: have it deleted, or set TMPDIR")
    folder.chmod(0o700)
    return folder


def others_can_read(path: Path) -> bool:
    """Whether other users of this machine can read a file: it lets them, and so do all folders on the way to it."""
    if not path.stat().st_mode & 0o044:
        return False
    return all(folder.stat().st_mode & 0o011 for folder in path.resolve().parents)
