"""A run as Ray Tune sees it: a function that may be called again and again in one actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray import tune

from hdvae.errors import Interrupted
from hdvae_platform.training.messages import Ended, EndKind, Message, Notify, from_wire, to_wire
from hdvae_platform.training.preemption import leaving
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec
from hdvae_platform.training.worker_group import run_group

_KEY = "message"
"""In Tune's results, beside what Tune itself puts there."""


def trainable(config: dict[str, Any]) -> None:
    """Train the run of a `RunSpec`, and report how it ended.

    After an unexpected error, and when the process is about to end, an exception is raised as well: Tune then gives no
    further run to this process. If no end was reported, the process was killed.
    """
    with leaving() as is_leaving:
        _train(RunSpec(**config), _report, is_leaving)


def message_in(result: Mapping[str, Any] | None) -> Message | None:
    """The message in a result of Tune; None if the run has not reported yet."""
    wire = (result or {}).get(_KEY)
    return None if wire is None else from_wire(wire)


def result_of(message: Message) -> dict[str, Any]:
    """The result of Tune that carries a message."""
    return {_KEY: to_wire(message)}


def _report(message: Message) -> None:
    tune.report(result_of(message))


def _train(spec: RunSpec, notify: Notify, is_leaving: Callable[[], bool]) -> None:
    try:
        if spec.grouped:
            end = run_group(spec, tune.get_context().get_trial_dir(), notify, is_leaving)
        else:
            run(spec, notify, leaving=is_leaving)
            end = Ended(EndKind.COMPLETED)
    except Exception as error:
        end = Ended.by(error)
        if end.how is EndKind.CRASHED:
            notify(end)
            raise
    notify(end)
    if end.how is EndKind.INTERRUPTED and is_leaving():
        assert end.step is not None
        raise Interrupted(end.step)
