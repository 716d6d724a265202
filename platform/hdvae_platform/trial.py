"""A run as Ray Tune sees it: a function that may be called again and again in one actor."""

from __future__ import annotations

from typing import Any

from ray import tune

from hdvae.errors import BoundViolated, InputError, NonFinite
from hdvae_platform import worker
from hdvae_platform.distributed import WorkerFailed, WorkersLost, run_together


def trainable(config: dict[str, Any]) -> None:
    """Do the run of a `RunSpec`. Failures that the user can understand are reported, the others raised."""
    spec = worker.RunSpec(**config)
    last: dict[str, Any] = {"step": 0}

    def notify(message: dict[str, Any]) -> None:
        last.update(step=message.get("step", last["step"]))
        tune.report({**last, **message})

    try:
        if spec.workers == 1:
            worker.run(spec, notify)
        else:
            run_together(spec, tune.get_context().get_trial_dir(), notify)
    except (NonFinite, BoundViolated, InputError, WorkerFailed) as fault:
        notify({"fault": str(fault)})
    except WorkersLost:
        notify({"lost": True})
    else:
        notify({"completed": True})
