"""The looks at the verdicts of a study, which keep its errors few although seeds are added until there is a verdict.

A *look* at an expectation is a test of it that somebody was shown. After more runs the next test is another look; the
same test shown again is the same look. Look k has the level α/(k(k+1)). These levels sum to α, so that an expectation
about which there is nothing to find is ever called supported or contradicted in at most a share α of all studies,
however many looks there are (Bonferroni's inequality).

Each look is a file on the study's storage, `looks/COMPARED-NUMBER-RUNS.json`, written before the verdict is shown:

    COMPARED   a checksum of what is compared (`Expectation.compared`)
    NUMBER     the number that the look had when it was written
    RUNS       a checksum of the runs that the test used

The names alone say everything, and no file is ever changed: two readers that show the same test write the same file,
and all who read the folder count alike. A look of a reader who may not write is shown as not recorded.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hdvae.errors import Damaged
from hdvae.training.sealed import seal, unseal
from hdvae_platform.analysis.labels import expectation_in_words
from hdvae_platform.store.layout import look_file, looks_folder
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.expectation import Expectation

RunKey = tuple[int, int]
"""Trial and seed of a run."""


@dataclass(frozen=True)
class Look:
    """One look at an expectation.

    Attributes:
        number: 1 for the first.
        recorded: whether the storage has a record of it.
    """

    number: int
    recorded: bool = True

    @property
    def price(self) -> int:
        """k(k+1): the p-value of look k, multiplied by it, is compared with the level of all looks together."""
        return self.number * (self.number + 1)


class Looks:
    """The looks at one study.

    Args:
        storage: the study's storage.
        study: its name.
    """

    def __init__(self, storage: Storage, study: str) -> None:
        self._storage, self._study, self._folder = storage, study, looks_folder(study)

    def look(self, expectation: Expectation, runs: Collection[RunKey]) -> Look:
        """The look at an expectation by a test of these runs; records it unless it is recorded.

        Raises:
            StorageAway: the storage does not answer.
        """
        compared, mine = _checksum(expectation.compared), _checksum(sorted(runs))
        names = [name for name in self._storage.list(self._folder) if name.startswith(f"{compared}-")]
        known = list(dict.fromkeys(name.rpartition("-")[2].removesuffix(".json") for name in names))
        if mine in known:
            return Look(known.index(mine) + 1)
        number = len(known) + 1
        record = {"expected": expectation_in_words(expectation), "number": number, "time": time.time()}
        record |= {"seeds": sorted({seed for _, seed in runs}), "runs": sorted(map(list, runs))}
        file = look_file(f"{compared}-{number:04d}-{mine}.json")
        try:
            self._storage.write(f"{self._study}/{file}", seal(self._study, file, record))
        except OSError:  # a reader without the right to write, or a full storage: the verdict says so
            return Look(number, recorded=False)
        return Look(number)

    def records(self) -> list[dict[str, Any]]:
        """What is recorded of each look: what was expected, number, time, seeds and runs; the oldest first.

        The user is told of damaged records, which are left out; their names still count as looks.
        """
        found = []
        for file in map(look_file, self._storage.list(self._folder)):
            path = f"{self._study}/{file}"
            try:
                found.append(unseal(self._storage.read(path), self._storage.address(path), file, self._study).content)
            except Damaged as fault:
                self._storage.warn(f"{fault}; the record of this look is passed over")
        return sorted(found, key=lambda one: float(one["time"]))


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
