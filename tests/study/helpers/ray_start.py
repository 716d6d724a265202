"""`ray start`, for the nodes of a cluster whose processes come from the nursery (`stand_in.py`)."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def node(arguments, log):
    """Be the node, in a process group of its own; what it prints is appended to a file."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    with Path(log).open("ab") as out:
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    start(arguments)


def start(arguments):
    """Ray's own command."""
    from ray.scripts.scripts import main

    sys.argv = ["ray", *arguments]
    main()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[3])  # in place of this folder, whose names are not to be found everywhere
    from tests.study.helpers.stand_in import use_nursery

    use_nursery()
    start(sys.argv[1:])
