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
AGENTS, JOBS = "agents", "jobs"
"""Sockets in that folder: of the nursery of agents, and of who starts the nursery of a job."""
JOB = "RAY_JOB_ID"
"""The variable with the job that a worker is for."""
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


def socket_of(job: str) -> str:
    """Of the nursery of a job."""
    return f"job-{job}"


def surroundings() -> list[str]:
    """What a process cannot be given after its start: the file systems and the hosts that it sees."""
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net")]  # noqa: PTH115 - names, not files


def _nursery() -> socket.socket:
    """The connection to the nursery of agents, or of a worker's job."""
    folder, job = os.environ[NURSERY], os.environ.get(JOB)
    if job is None:
        return _connected(f"{folder}/{AGENTS}")
    try:
        return _connected(f"{folder}/{socket_of(job)}")
    except OSError:
        with _connected(f"{folder}/{JOBS}") as jobs:
            jobs.sendall(job.encode())
            jobs.recv(1)
        return _connected(f"{folder}/{socket_of(job)}")


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(path)
    return made


def _asked() -> int | None:
    """The exit code of the process that was asked for; None if Ray is to start it."""
    parent = os.getppid()
    try:
        nursery = _nursery()
    except (KeyError, OSError):
        return None
    with nursery:
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
