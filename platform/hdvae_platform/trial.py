"""A run as Ray Tune sees it: a function that may be called again and again in one actor."""

from __future__ import annotations

import traceback
from typing import Any

from ray import tune

from hdvae.errors import BoundViolated, InputError, NonFinite
from hdvae_platform import worker
from hdvae_platform.fencing import Fenced


def trainable(config: dict[str, Any]) -> None:
    """Do the run of a `RunSpec`. Failures are reported; those that no user could understand are raised as well.

    So Tune gives up the process, in which nothing can be relied upon, and what is not reported is the end of a process.
    A run that a newer attempt shut out is none: it ends without a word of its own.
    """
    last: dict[str, Any] = {"step": 0}

    def notify(message: dict[str, Any]) -> None:
        last.update(step=message.get("step", last["step"]))
        tune.report({**last, **message})

    try:
        worker.run(worker.RunSpec(**config), notify)
    except Fenced as fence:
        tune.report({**last, "fenced": str(fence)})
    except (NonFinite, BoundViolated, InputError) as fault:
        tune.report({**last, "fault": str(fault)})
    except Exception:
        tune.report({**last, "fault": traceback.format_exc()})
        raise
    else:
        tune.report({**last, "completed": True})
