"""Ray's worker processes, forked from one that has imported what they need.

Ray starts this file in place of its own `setup_worker.py`. Imports are most of what a worker of a small study computes,
so this process asks the nursery (`nursery.py`) for a worker, stands for it in the tree of processes, and ends with it.
The nursery leaves a worker to Ray that is to see other file systems, hosts or packages than it does itself.
"""

import json
import os
import socket
import sys
from pathlib import Path

NURSERY, SETUP = "HDVAE_TESTS_NURSERY", "HDVAE_TESTS_RAY_SETUP"
"""Variables with the nursery's folder, and with Ray's own file."""
SOCKET = "nursery"
"""In the nursery's folder."""


def use_nursery() -> None:
    """Let the Rays that this process starts have their workers from the nursery, if there is one.

    They do without services that are Python processes and have nothing to do here: the autoscaler, the one that copies
    logs to drivers, Ray's client, and the server of a dashboard that was not asked for.
    """
    from ray._private import parameter, services
    from ray._private.workers import setup_worker

    os.environ[SETUP] = setup_worker.__file__
    settings, dashboard = parameter.RayParams.__init__, services.start_api_server

    def with_settings(self, *arguments, **options):
        settings(self, *arguments, **options)
        self.setup_worker_path = __file__
        self.no_monitor, self.include_log_monitor, self.ray_client_server_port = True, False, None

    def with_dashboard(wanted, *arguments, **options):
        return dashboard(wanted, *arguments, **options) if wanted else ("", None)

    parameter.RayParams.__init__, services.start_api_server = with_settings, with_dashboard


def surroundings() -> list[str]:
    """What a process cannot be given after its start: the file systems and the hosts that it sees."""
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net")]  # noqa: PTH115 - names, not files


def _worker() -> int | None:
    """The exit code of the worker; None if Ray is to start it."""
    with socket.socket(socket.AF_UNIX) as nursery:
        try:
            nursery.connect(f"{os.environ[NURSERY]}/{SOCKET}")
        except (KeyError, OSError):
            return None
        asked = {
            "arguments": sys.argv[1:],
            "environment": dict(os.environ),
            "cwd": str(Path.cwd()),
            "surroundings": surroundings(),
            "stands_in": os.getpid(),
        }
        socket.send_fds(nursery, [b"."], [1, 2])
        with nursery.makefile("rwb") as words:
            words.write(json.dumps(asked).encode() + b"\n")
            words.flush()
            answer = words.readline()
        return json.loads(answer) if answer else 1


if __name__ == "__main__":
    code = _worker()
    if code is None:
        os.execv(sys.executable, [sys.executable, os.environ[SETUP], *sys.argv[1:]])
    os._exit(code)
