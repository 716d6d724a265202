"""Ray's own command, for the nodes of a cluster whose workers come from the nursery (`ray_worker.py`)."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[3])  # in place of this folder, whose names are not to be found everywhere
    from tests.study.helpers.ray_worker import use_nursery

    use_nursery()
    from ray.scripts.scripts import main

    main()
