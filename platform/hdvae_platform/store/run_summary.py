"""How far a run is, as its files say: what `hdvae study status` shows of it.

Of a run that has ended, the study database keeps it, so that a look at ten thousand runs need not read their files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hdvae.training.run_files import CHECKPOINTS, stems_of, tensors_file, valid_files
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import JOURNAL
from hdvae_platform.store.storage import Storage


@dataclass(frozen=True)
class RunSummary:
    """How far a run is.

    Attributes:
        attempts: the number of its newest attempt when this was read.
        step: the step of the newest checkpoint or report; 0 without any.
        checkpoint: the newest checkpoint, below the run's folder; None without any.
        best_checkpoint: the one with the best value of the study's metric.
        costs: of the steps before the last report (`hdvae.evaluation.metrics.COSTS`).
    """

    attempts: int
    step: int = 0
    checkpoint: str | None = None
    best_checkpoint: str | None = None
    costs: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The summary as JSON-like values, from which its constructor makes it again."""
        return asdict(self)


def read_summary(storage: Storage, folder: str, attempts: int, goal: Goal) -> tuple[RunSummary, Journal]:
    """How far a run is, and its journal as it stands; takes at most eight requests to the storage.

    Args:
        storage: of the study.
        folder: of the run.
        attempts: the number of its newest attempt.
        goal: how its checkpoints are compared.
    """
    found = valid_files(storage, folder, CHECKPOINTS, JOURNAL, owner=folder)
    journal, kept = Journal(storage, folder, names=found[JOURNAL]), stems_of(found[CHECKPOINTS])
    reported, best = journal.steps(), journal.best(goal, kept)
    newest, last = max(kept, default=None), list(journal.readable(reported[-1:]).values())
    summary = RunSummary(
        attempts,
        step=max([*kept, *reported], default=0),
        checkpoint=None if newest is None else tensors_file(kept[newest]),
        best_checkpoint=None if best is None else tensors_file(kept[best]),
        costs=last[0].costs if last else {},
    )
    return summary, journal
