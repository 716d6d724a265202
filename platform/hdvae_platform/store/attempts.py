"""Fences: a newer attempt at a run shuts out the older ones, whose processes may yet be alive.

A worker outlives its driver by some seconds or, behind a broken network, for long. Each attempt at a run has a
number, larger than those before it, and leaves a record in the run's folder when it begins:

    NAME/trial-0007/seed-0/attempts/0002.json      what stood of the earlier attempts when the second began

Whoever writes looks first for a newer record, and if there is one raises `Fenced`. Plain storage cannot look and
write in one go, so a write that was under way when the newer attempt began may still land. It does no harm: the
names of files hold the number of the attempt that wrote them, and a file of an older attempt counts only if the
record of the newest lists it. What remains: `samples.png`, drawn after the last step, has one name for all attempts,
and a late one draws the same picture; a late delete may take an older file that a newer one makes superfluous.
"""

from __future__ import annotations

import json

from hdvae.errors import InputError
from hdvae.training.run_files import newest_attempt, standing
from hdvae_platform.store.layout import CHECKPOINTS, JOURNAL, PER_IMAGE, attempt_file, end_request, file_of_attempt
from hdvae_platform.store.storage import Storage

FENCED_FOLDERS = (JOURNAL, CHECKPOINTS, PER_IMAGE)
"""Folders of a run whose files have the number of their attempt in their names."""


class Fenced(InputError):
    """A newer attempt has taken over: this one must not write any more."""


class Attempt:
    """One attempt at a run: the right to write in its folder until a newer one begins.

    Args:
        storage: of the run.
        run: its folder.
        number: larger than that of every attempt before.
    """

    def __init__(self, storage: Storage, run: str, number: int) -> None:
        self.storage, self.run, self.number = storage, run, number

    def begin(self) -> None:
        """Shut out the older attempts, and settle what of theirs counts; nothing more if that is done.

        Raises:
            Fenced: a newer attempt has begun.
        """
        if self._newest() == self.number:
            return
        stands = {folder: standing(self.storage, self.run, folder) for folder in FENCED_FOLDERS}
        self.storage.write(attempt_file(self.run, self.number), json.dumps(stands).encode())

    def check(self) -> None:
        """See that this attempt has begun, and no newer one.

        Raises:
            Fenced: one has, or the record of this one is gone, as it is when the study was deleted.
        """
        if self._newest() < self.number:
            raise Fenced(f"{self.run}: there is no attempt {self.number} any more: the study was deleted")

    def _newest(self) -> int:
        """The number of the newest attempt, which may not be later than this one."""
        newest = newest_attempt(self.storage, self.run)
        if newest > self.number:
            raise Fenced(f"{self.run}: attempt {newest} has taken over from attempt {self.number}")
        return newest

    def ask_to_end(self) -> None:
        """Let whoever works at this attempt know that it is to end soon, and to keep what it has done.

        Raises:
            Fenced: a newer attempt has begun.
        """
        self.check()
        self.storage.write(end_request(self.run, self.number), b"")

    def asked_to_end(self) -> bool:
        """Whether it is."""
        return self.storage.exists(end_request(self.run, self.number))

    def write(self, folder: str, stem: str, suffix: str, data: bytes) -> None:
        """Write a file under a name of this attempt's own.

        Raises:
            Fenced: a newer attempt has begun.
        """
        self.check()
        self.storage.write(file_of_attempt(self.run, folder, stem, self.number, suffix), data)
