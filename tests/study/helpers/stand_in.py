"""Ray's Python processes, forked from one that has imported what they need.

Ray starts this file in place of its workers and of the agents of its nodes. Imports are most of what these compute for
a small study, so this process asks a nursery (`nursery.py`) for the one that is wanted, stands for it in the tree of
processes, and ends with it. The nursery leaves a process to Ray that is to see other file systems, hosts or packages
than it does itself.
"""

import json
import os
import socket
import sys
from pathlib import Path

NURSERY, SETUP = "HDVAE_TESTS_NURSERY", "HDVAE_TESTS_RAY_SETUP"
"""Variables with the folder of the nurseries, and with Ray's own file that starts a worker."""
WITH_RAY, WITHOUT_RAY = "with-ray", "without-ray"
"""Sockets of the two nurseries, in their folder."""
JOB, FIRST_JOB = "RAY_JOB_ID", "01000000"
"""What a worker is to work for: a variable of its environment, and the value for the first driver of a cluster."""
RAYLET = "RAY_RAYLET_PID"
"""The variable with the process that a worker or an agent is to end with."""
DASHBOARD_AGENT, RUNTIME_ENV_AGENT = "dashboard/agent.py", "runtime_env/agent/main.py"
"""How the paths of the agents of a node end."""


def use_nursery() -> None:
    """Let the Rays that this process starts have their Python processes from the nursery, if there is one.

    They do without services that are Python processes and have nothing to do here: the autoscaler, the one that copies
    logs to drivers, Ray's client, and the server of a dashboard that was not asked for.
    """
    from ray._private import parameter, services
    from ray._private.workers import setup_worker

    os.environ[SETUP] = setup_worker.__file__
    settings, dashboard = parameter.RayParams.__init__, services.start_api_server
    python = services._build_python_executable_command_memory_profileable

    def with_settings(self, *arguments, **options):
        settings(self, *arguments, **options)
        self.setup_worker_path = __file__
        self.no_monitor, self.include_log_monitor, self.ray_client_server_port = True, False, None

    def with_dashboard(wanted, *arguments, **options):
        return dashboard(wanted, *arguments, **options) if wanted else ("", None)

    def with_stand_in(component, *arguments, **options):
        command = python(component, *arguments, **options)
        return [sys.executable, __file__] if component.endswith("agent") else command

    parameter.RayParams.__init__, services.start_api_server = with_settings, with_dashboard
    services._build_python_executable_command_memory_profileable = with_stand_in


def is_agent(arguments: list[str]) -> bool:
    """Whether this is the command line of an agent, and not of a worker."""
    return arguments[0].endswith((DASHBOARD_AGENT, RUNTIME_ENV_AGENT))


def surroundings() -> list[str]:
    """What a process cannot be given after its start: the file systems and the hosts that it sees."""
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net")]  # noqa: PTH115 - names, not files


def _asked() -> int | None:
    """The exit code of the process that was asked for; None if Ray is to start it."""
    parent, which = os.getppid(), WITH_RAY if os.environ.get(JOB, FIRST_JOB) == FIRST_JOB else WITHOUT_RAY
    with socket.socket(socket.AF_UNIX) as nursery:
        try:
            nursery.connect(f"{os.environ[NURSERY]}/{which}")
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
        nursery.sendall(json.dumps(asked).encode() + b"\n")
        nursery.settimeout(1)
        while os.getppid() == parent:  # an agent's raylet ends without a word to it
            try:
                answer = nursery.recv(64)
            except TimeoutError:
                continue
            return json.loads(answer) if answer else 1
    return 1


if __name__ == "__main__":
    code = _asked()
    if code is None:
        own = ["-u"] if is_agent(sys.argv[1:]) else [os.environ[SETUP]]
        os.execv(sys.executable, [sys.executable, *own, *sys.argv[1:]])
    os._exit(code)
