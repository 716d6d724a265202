"""The checkpoints of a run on the study's storage: writing them, reading them, and deleting old ones.

Only valid files are used (`hdvae.training.run_files`), and every file is complete or absent. A checkpoint is valid
once its manifest exists, is whole and belongs to this run, and its tensors have the size and checksum stated there.
"""

from __future__ import annotations

from collections.abc import Collection

from hdvae.errors import Damaged
from hdvae.training.checkpoints import encode, newest, read_checkpoint
from hdvae.training.run_files import CHECKPOINTS, is_of_attempt, stems, step_of, tensors_file
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.storage import Storage

KEEP = 2
"""How many of the newest checkpoints are kept, besides the best one; the second in case the first cannot be read."""


class Checkpoints:
    """The checkpoints of one run, as safetensors and JSON: reading them runs no code."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._run = storage, run

    def save(self, step: int, snapshot: Snapshot, attempt: Attempt, best: int | None = None) -> None:
        """Write a snapshot, then delete the older ones except the newest and the best.

        Args:
            step: the step of the snapshot.
            snapshot: the state of the run.
            attempt: the attempt that writes.
            best: the step of the best checkpoint; None if there is none.

        Raises:
            Fenced: a newer attempt has begun.
        """
        stem = f"{step:09d}"
        data, manifest = encode(snapshot, step, self._run, attempt.file(CHECKPOINTS, stem, ""))
        attempt.write(CHECKPOINTS, stem, ".safetensors", data)
        attempt.write(CHECKPOINTS, stem, ".json", manifest)
        attempt.check()
        self._delete_older(step, attempt, best)

    def _delete_older(self, step: int, attempt: Attempt, best: int | None) -> None:
        """Delete all up to a step except the newest and the best, and files that a fenced attempt still wrote."""
        known = self._stems()
        kept = {known[at] for at in known if at == best or at in list(known)[-KEEP:]}
        for name in self._storage.list(f"{self._run}/{CHECKPOINTS}"):
            if name.partition(".")[0] not in kept and is_of_attempt(name, attempt.number) and step_of(name) <= step:
                self._storage.delete_file(f"{self._run}/{CHECKPOINTS}/{name}")

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, increasing."""
        return list(self._stems())

    def address(self, step: int) -> str:
        """The address of the tensors of a checkpoint."""
        return self._storage.address(f"{self._run}/{tensors_file(self._stems()[step])}")

    def load(self, step: int) -> Snapshot:
        """Read a checkpoint.

        Raises:
            Damaged: there is none of this step, or it is not what was written.
        """
        stem = self._stems().get(step)
        if stem is None:
            raise Damaged(f"{self._storage.address(self._run)}: no checkpoint of step {step}")
        return read_checkpoint(self._storage, self._run, f"{CHECKPOINTS}/{stem}", self._run)

    def latest(self, without: Collection[int] = ()) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that can be read (None if there is none), and what was wrong with newer ones.

        Args:
            without: steps whose checkpoints are passed over.
        """
        return newest(self._storage, self._run, self._run, without)

    def _stems(self) -> dict[int, str]:
        return stems(self._storage, self._run, self._run)
