"""The checkpoints of a run on the study's storage: which are kept, and how they are written.

Only the files that count are seen (`hdvae.training.run_files`), and every file is whole or absent. A checkpoint counts
once its manifest is there and the tensors have the size and checksum that it states.
"""

from __future__ import annotations

from hdvae.training.checkpoints import Damaged, encode, newest, read_checkpoint
from hdvae.training.run_files import addresses, stems, step_of, written_by
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.storage import Storage

KEEP = 2
"""Checkpoints kept beside the best: the newest, and the one before in case the newest cannot be read."""


class Checkpoints:
    """The checkpoints of one run: safetensors and JSON, nothing that executes when it is read."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._run = storage, run

    def save(self, step: int, snapshot: Snapshot, attempt: Attempt, best: int | None = None) -> None:
        """Store a snapshot, then drop the older ones but for the newest and the best.

        Args:
            step: of the snapshot.
            snapshot: the state.
            attempt: at the run.
            best: the step of the best checkpoint, if there is one.

        Raises:
            Fenced: a newer attempt has begun.
        """
        data, manifest = encode(snapshot, step)
        attempt.write("checkpoints", f"{step:09d}", ".safetensors", data)
        attempt.write("checkpoints", f"{step:09d}", ".json", manifest)
        attempt.check()
        self._drop_older(step, attempt, best)

    def _drop_older(self, step: int, attempt: Attempt, best: int | None) -> None:
        """Drop all up to a step but the newest ones and the best, and what an attempt that was shut out still wrote."""
        there = stems(self._storage, self._run)
        kept = {there[at] for at in there if at == best or at in list(there)[-KEEP:]}
        for name in self._storage.list(f"{self._run}/checkpoints"):
            older = step_of(name) <= step and written_by(name) <= attempt.number
            if older and name.partition(".")[0] not in kept:
                self._storage.delete_file(f"{self._run}/checkpoints/{name}")

    def steps(self) -> list[int]:
        """The steps with a checkpoint, increasing."""
        return list(stems(self._storage, self._run))

    def address(self, step: int) -> str:
        """Where the tensors of a checkpoint are."""
        return addresses(self._storage, self._run)[step]

    def load(self, step: int) -> Snapshot:
        """Read a checkpoint.

        Raises:
            Damaged: it is not what was written.
        """
        stem = stems(self._storage, self._run).get(step)
        if stem is None:
            raise Damaged(f"{self._storage.address(self._run)}: no checkpoint of step {step}")
        return read_checkpoint(self._storage, f"{self._run}/checkpoints/{stem}")

    def latest(self) -> tuple[Snapshot | None, list[str]]:
        """The newest checkpoint that can be read, and what was wrong with newer ones."""
        return newest(self._storage, self._run)
