"""Results of an evaluation that is under way, kept in the home folder so that the same command can go on after it died.

    HOME/unfinished/KEY/000000000-000001024.safetensors      the results of the first 1024 images, and beside it .json

The key is a hash of all that the results depend on. Files that are damaged are computed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hdvae.errors import Damaged
from hdvae.training.checkpoints import encode, read_checkpoint
from hdvae.training.run_files import Folder
from hdvae.training.snapshot import Snapshot
from hdvae_platform.store.storage import write_atomically

FOLDER = "unfinished"


class Unfinished:
    """Keeps the results of each range of images (`hdvae.evaluation.evaluation.Keep`).

    Args:
        home: the home folder.
        depends_on: everything that the results depend on, JSON-like values.

    Attributes:
        resumed: the number of images whose results were kept from before.
        fault: why results are not kept; empty if they are.
    """

    def __init__(self, home: Path, depends_on: Mapping[str, Any]) -> None:
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
        self._folder, self._key = home / FOLDER / key, key
        self.resumed, self.fault = 0, ""

    def __call__(self, images: range, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The results for a range of images: those that were kept, else computed now and kept."""
        stem = f"{images.start:09d}-{images.stop:09d}"
        try:
            found = self._read(stem)
            self.resumed += len(images)
            return found
        except (Damaged, KeyError, OSError):  # most often there are none
            found = compute()
        try:
            self._write(stem, found)
        except OSError as fault:  # a full disk, say: the evaluation itself does not need it
            self.fault = str(fault)
        return found

    def _read(self, stem: str) -> dict[str, Tensor]:
        kept = read_checkpoint(Folder(str(self._folder.parent)), self._key, stem, self._key)
        return {name: kept.tensors[name] for name in kept.values["order"]}

    def _write(self, stem: str, found: dict[str, Tensor]) -> None:
        data, manifest = encode(Snapshot(found, {"order": list(found)}), 0, self._key, stem)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{stem}.safetensors", data)
        write_atomically(self._folder / f"{stem}.json", manifest)  # last: without it the results do not count

    def discard(self) -> None:
        """Delete the results, which are in the finished evaluation."""
        shutil.rmtree(self._folder, ignore_errors=True)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
