"""The checkpoints of a run on the study's storage: writing them, reading them, and deleting old ones.

Only valid files are used (`hdvae.training.run_files`), and every file is complete or absent. A checkpoint is valid
once its manifest exists and its tensors have the size and checksum stated there.
"""

from __future__ import annotations

from hdvae.training.checkpoints import Damaged, encode, newest, read_checkpoint
from hdvae.training.run_files import CHECKPOINTS, addresses, stems, step_of, written_by
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
        data, manifest = encode(snapshot, step)
        attempt.write(CHECKPOINTS, f"{step:09d}", ".safetensors", data)
        attempt.write(CHECKPOINTS, f"{step:09d}", ".json", manifest)
        attempt.check()
        self._delete_older(step, attempt, best)

    def _delete_older(self, step: int, attempt: Attempt, best: int | None) -> None:
        """Delete all up to a step except the newest and the best, and files that a fenced attempt still wrote."""
        known = stems(self._storage, self._run)
        kept = {known[at] for at in known if at == best or at in list(known)[-KEEP:]}
        for name in self._storage.list(f"{self._run}/{CHECKPOINTS}"):
            older = step_of(name) <= step and written_by(name) <= attempt.number
            if older and name.partition(".")[0] not in kept:
                self._storage.delete_file(f"{self._run}/{CHECKPOINTS}/{name}")

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, increasing."""
        return list(stems(self._storage, self._run))

    def address(self, step: int) -> str:
        """The address of the tensors of a checkpoint."""
        return addresses(self._storage, self._run)[step]

    def load(self, step: int) -> Snapshot:
        """Read a checkpoint.

        Raises:
            Damaged: there is none of this step, or it is not what was written.
        """
        stem = stems(self._storage, self._run).get(step)
        if stem is None:
            raise Damaged(f"{self._storage.address(self._run)}: no checkpoint of step {step}")
        return read_checkpoint(self._storage, f"{self._run}/{CHECKPOINTS}/{stem}")

    def latest(self) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that can be read (None if there is none), and what was wrong with newer ones."""
        return newest(self._storage, self._run)
