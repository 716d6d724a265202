"""What has to be so before any test's file is read."""

import os
from pathlib import Path

import pytest

from hdvae_platform.tracking.environment import configure

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when the first file imports Ray
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # processes that nothing here uses
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # half a dozen processes for each server
configure()  # as the command line does, before MLflow is imported

LONGEST = (
    "study/cluster/test_connection.py",
    "study/running/test_chaos.py",
    "study/training/test_preemption.py",
    "study/training/test_data_parallel.py",
    "study/running/test_kills.py",
    "study/running/test_failures.py",
    "study/report/test_report.py",
)
"""Files that take a minute and more, longest first."""
FINISHED = {
    f"tests/study/{file}.py"
    for file in (
        "commands/test_handles",
        "commands/test_startup",
        "running/test_export",
        "running/test_failures",
        "running/test_interruption",
        "running/test_launch",
    )
}
"""Files that look at the same finished study, which takes a while to run."""


def pytest_collection_modifyitems(items):
    """Begin with what takes longest, so that pytest's workers end together."""
    rank = {str(Path(__file__).parent / file): number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(str(item.path), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As `--dist loadfile`, but files that share something costly go to the same of pytest's workers."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "finished" if file in FINISHED else file

    return Together(config, log) if config.getvalue("dist") == "loadfile" else None
