"""The states of a run, by Optuna's names; the corresponding statuses of MLflow are in `tracking.names`."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run (a trial with one seed) stands.

    >>> RunState.PRUNED.is_terminal, RunState.RUNNING.is_terminal, RunState("FAIL") == "FAIL"
    (True, False, True)
    """

    WAITING = "WAITING"
    """Not started yet, or interrupted and to be continued."""
    RUNNING = "RUNNING"
    """Being trained; or, if no driver is at work, interrupted."""
    COMPLETE = "COMPLETE"
    """Reached its last step with finite values."""
    PRUNED = "PRUNED"
    """Stopped early by the search's pruner."""
    FAIL = "FAIL"
    """Ended by an error or a value that is not finite."""

    @property
    def is_terminal(self) -> bool:
        """Whether a run in this state has ended: it goes on only if a user asks for it."""
        return self not in (RunState.WAITING, RunState.RUNNING)
