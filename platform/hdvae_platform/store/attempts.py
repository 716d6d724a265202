"""Fencing: a newer attempt at a run shuts out the older ones, whose processes may still be alive.

A worker outlives its driver by some seconds, or for much longer behind a broken network. Each attempt at a run has a
number, larger than those before it, and writes a record into the run's folder when it begins:

    NAME/trial-0007/seed-0/attempts/0002.json      the files of earlier attempts that were valid when the second began

An attempt that wants to write first looks for a newer record, and raises `Fenced` if there is one. Plain storage cannot
look and write in one step, so a write that had begun before the newer attempt did may still succeed. It does no harm:
file names contain the number of the attempt that wrote them, and a file of an older attempt is valid only if the record
of the newest attempt lists it. Two cases remain, both harmless: `samples.png` has one name for all attempts, but all of
them draw the same picture; and a late deletion may remove an older file, but only one that a newer file replaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hdvae.errors import InputError
from hdvae.training.run_files import CHECKPOINTS, newest_attempt, taken_over
from hdvae.training.sealed import seal
from hdvae_platform.store.layout import JOURNAL, PER_IMAGE, attempt_file, end_request, file_of_attempt
from hdvae_platform.store.storage import Storage

FENCED_FOLDERS = (JOURNAL, CHECKPOINTS, PER_IMAGE)
"""Folders of a run whose files have the number of their attempt in their names."""


class Fenced(InputError):
    """A newer attempt or launch has taken over: this one must not write any more."""


class Attempt:
    """One attempt at a run: the right to write in its folder until a newer attempt begins.

    Args:
        storage: where the run is.
        run: the folder of the run.
        number: larger than that of every earlier attempt.
    """

    def __init__(self, storage: Storage, run: str, number: int) -> None:
        self.storage, self.run, self.number = storage, run, number

    def begin(self, params: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Shut out the older attempts and record which of their files stay valid; does nothing if it has begun already.

        Args:
            params: the parameters of the run's trial.

        Raises:
            Fenced: a newer attempt has begun.
            InputError: the earlier attempts had other parameters.
        """
        if self._newest() == self.number:
            return
        taken = taken_over(self.storage, self.run, self.run)
        earlier = taken.content.get("params", dict(params))
        if earlier != dict(params):
            raise InputError(
                f"{self.storage.address(self.run)} has a run that was trained with {json.dumps(earlier)}, but the "
                f"study database wants {json.dumps(dict(params))} there: was one of them restored from a backup? "
                "Restore the other one too, or move this folder away"
            )
        folders = {folder: self.storage.list(f"{self.run}/{folder}") for folder in FENCED_FOLDERS}
        valid = {folder: taken.valid_in(folder, names) for folder, names in folders.items()}
        name = attempt_file(self.number)
        self.storage.write(f"{self.run}/{name}", seal(self.run, name, {**valid, "params": dict(params)}))

    def check(self) -> None:
        """Check that this attempt has begun, and that no newer one has.

        Raises:
            Fenced: a newer one has, or the record of this one is gone because the study was deleted.
        """
        if self._newest() < self.number:
            raise Fenced(f"{self.run}: attempt {self.number} is gone: the study was deleted")

    def _newest(self) -> int:
        """The number of the newest attempt; raises `Fenced` if it is newer than this one."""
        newest = newest_attempt(self.storage, self.run)
        if newest > self.number:
            raise Fenced(f"{self.run}: attempt {newest} has taken over from attempt {self.number}")
        return newest

    def ask_to_end(self) -> None:
        """Ask the process of this attempt to end soon and to keep its progress.

        Raises:
            Fenced: a newer attempt has begun.
        """
        self.check()
        self.storage.write(end_request(self.run, self.number), b"")

    def asked_to_end(self) -> bool:
        """Whether this attempt was asked to end."""
        return self.storage.exists(end_request(self.run, self.number))

    def file(self, folder: str, stem: str, suffix: str) -> str:
        """A name of this attempt's own in the folder of the run."""
        return file_of_attempt(folder, stem, self.number, suffix)

    def write(self, folder: str, stem: str, suffix: str, data: bytes) -> None:
        """Write a file under a name of this attempt's own.

        Raises:
            Fenced: a newer attempt has begun.
        """
        self.check()
        self.storage.write(f"{self.run}/{self.file(folder, stem, suffix)}", data)
