"""A run as Ray Tune sees it: a function that may be called again and again in one actor."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from ray import tune

from hdvae.errors import BoundViolated, InputError, Interrupted, NonFinite
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.training import run
from hdvae_platform.training.preemption import leaving
from hdvae_platform.training.worker_group import WorkerCrashed, WorkerFailed, WorkersLost, run_together


def trainable(config: dict[str, Any]) -> None:
    """Do the run of a `RunSpec`. Failures are reported; those that no user could understand are raised as well.

    So Tune gives up the process, in which nothing can be relied upon, and what is not reported is the end of a process.
    A run that a newer attempt shut out is none: it ends without a word of its own. A process that is leaving is given
    up too, lest another run be given to it.
    """
    with leaving() as is_leaving:
        _do(config, is_leaving)


def _do(config: dict[str, Any], is_leaving: Callable[[], bool]) -> None:
    spec = run.RunSpec(**config)
    last: dict[str, Any] = {"step": 0}

    def notify(message: dict[str, Any]) -> None:
        last.update(step=message.get("step", last["step"]))
        tune.report({**last, **message})

    try:
        if spec.together:
            run_together(spec, tune.get_context().get_trial_dir(), notify, is_leaving)
        else:
            run.run(spec, notify, leaving=is_leaving)
    except Fenced as fence:
        notify({"fenced": str(fence)})
    except (NonFinite, BoundViolated, InputError, WorkerFailed) as fault:
        notify({"fault": str(fault)})
    except StorageAway as away:
        notify({"away": str(away)})
    except Interrupted as interruption:
        notify({"interrupted": True, "step": interruption.step})
        if is_leaving():
            raise
    except WorkersLost as loss:
        notify({"lost": str(loss)})
    except WorkerCrashed as crash:
        notify({"crashed": str(crash)})
    except Exception:
        notify({"crashed": traceback.format_exc()})
        raise
    else:
        notify({"completed": True})
