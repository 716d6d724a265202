"""The runs of a study in memory, with counts that need no look at all of them.

A study may have ten thousand runs: the work for one run must not grow with the number of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hdvae_platform.store.records import Kind, Run
from hdvae_platform.store.run_state import RunState


class RunTable:
    """Runs by trial and seed.

    Args:
        seeds: the seeds of the search, in order.
        pruned: whether the run of the first seed decides if the other seeds of its trial are run.
        runs: the known runs.
    """

    def __init__(self, seeds: Sequence[int], pruned: bool, runs: Sequence[Run] = ()) -> None:
        self._seeds, self._pruned = seeds, pruned
        self._runs: dict[int, dict[int, Run]] = {}
        self._counts: Counter[str] = Counter()
        for run in runs:
            self.put(run)

    def put(self, run: Run) -> None:
        """Add a run, or replace it by a newer state of it."""
        trial = self._runs.setdefault(run.trial, {})
        self._counts.subtract(self._share(trial))
        trial[run.seed] = run
        self._counts.update(self._share(trial))

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key[1] in self._runs.get(key[0], {})

    def __getitem__(self, key: tuple[int, int]) -> Run:
        return self._runs[key[0]][key[1]]

    def find(self, trial: int, seed: int) -> Run | None:
        """A run; None if it is not known."""
        return self._runs.get(trial, {}).get(seed)

    def all(self) -> list[Run]:
        """All runs, by trial and seed; takes time in proportion to their number."""
        return [trial[seed] for _, trial in sorted(self._runs.items()) for seed in sorted(trial)]

    def of(self, trial: int) -> list[Run]:
        """The runs of a trial in the search, without confirmations."""
        return [run for run in self._runs.get(trial, {}).values() if run.kind == "search"]

    def count(self, kind: Kind) -> int:
        """How many runs there are of a kind."""
        return self._counts[kind]

    @property
    def searching(self) -> bool:
        """Whether a run of the search is unfinished."""
        return self._counts["unfinished"] > 0

    @property
    def spared(self) -> int:
        """How many runs are not started because the first run of their trial was pruned or failed."""
        return self._counts["spared"]

    def _share(self, trial: dict[int, Run]) -> Counter[str]:
        """The counts of one trial's runs."""
        share = Counter[str](run.kind for run in trial.values())
        share["unfinished"] = sum(run.kind == "search" and run.unfinished for run in trial.values())
        first = trial.get(self._seeds[0])
        if self._pruned and first is not None and first.state in (RunState.PRUNED, RunState.FAIL):
            share["spared"] = len(self._seeds) - share["search"]
        return share
