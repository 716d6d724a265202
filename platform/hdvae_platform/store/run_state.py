"""The states of a run. They are Optuna's names; MLflow's statuses of them are in `tracking.names`."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run (a trial with one seed) stands.

    >>> RunState.PRUNED.is_terminal, RunState.RUNNING.is_terminal, RunState("FAIL") == "FAIL"
    (True, False, True)
    """

    WAITING = "WAITING"
    """Yet to be started, or interrupted and to be continued."""
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    """Reached its last step with finite values."""
    PRUNED = "PRUNED"
    """Stopped early by the search's pruner."""
    FAIL = "FAIL"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens to a run in this state, unless a user asks for it."""
        return self not in (RunState.WAITING, RunState.RUNNING)
