"""The live page, and the web pages of MLflow and Optuna, opened by the real command."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import stat
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hdvae_platform.cli import run
from hdvae_platform.search.search import Search
from hdvae_platform.store.records import Records
from hdvae_platform.study.file import load_study
from tests.study.helpers.commands import Command


def command_lines() -> str:
    """Those of all processes, as every user of the machine can read them."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(lines)


def listening(port):
    """The addresses of this machine at which a port takes connections, as the kernel writes them."""
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    local = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
    return {address for address, number in local if int(number, 16) == port}


LOOPBACK = "0100007F"


def status(address, method="GET", body=None, **headers):
    """How a request is answered."""
    asked = urllib.request.Request(address, body, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux says in a file who listens where")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_answer_on_this_machine_only_and_close_together(places, study_file, end):
    study, records = load_study(study_file), Records(places.database)
    records.define(study.name, study.definition(), study.plan(), {})
    Search(study, places.database, records)
    ports = ["--live-port", "15730", "--mlflow-port", "15731", "--optuna-port", "15732"]
    page = Command("ui", "small", "--home", places.home, *ports)
    watchdog = threading.Timer(120, page.kill)
    watchdog.start()
    try:
        said = [page.stdout.readline() for _ in range(4)]
        assert re.fullmatch(r"Live    http://127\.0\.0\.1:\d+/studies/small\n", said[0])
        addresses = dict(re.findall(r"(\w+) +(http://127\.0\.0\.1:\d+)", "".join(said)))
        assert set(addresses) == {"Live", "MLflow", "Optuna"}
        with urllib.request.urlopen(addresses["Live"] + "/api/studies/small") as answer:
            assert json.load(answer)["states"]["waiting"] == 6
        with urllib.request.urlopen(addresses["MLflow"]) as answer:
            assert b"MLflow" in answer.read()
        written = addresses["MLflow"] + "/ajax-api/2.0/mlflow/experiments/create"
        assert status(written, "POST", b'{"name": "other"}') == 403
        assert status(addresses["Optuna"] + "/api/studies/1", "DELETE") == 405
        assert status(addresses["Optuna"] + "/api/studies", Host="evil.example") == 403
        with urllib.request.urlopen(addresses["Optuna"] + "/api/studies") as answer:
            assert b'"small"' in answer.read()
        assert [listening(int(address.rpartition(":")[2])) for address in addresses.values()] == [{LOOPBACK}] * 3
        seen = command_lines()
        sockets = Path(re.search(rf"{places.artifacts} --workers 1 --uvicorn-opts --uds (\S+)/MLflow", seen)[1])
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert places.database not in seen, "an address can hold a password"
        assert places.tracking not in seen
        page.send_signal(end)
        assert page.wait(30) == 0
        assert str(sockets) not in command_lines(), "a page is left"
        assert not sockets.exists()
    finally:
        watchdog.cancel()
        page.kill()
        page.stdout.close()


def test_a_study_that_is_not_there_is_named(places, study_file, capsys):
    study = load_study(study_file)
    Records(places.database).define(study.name, study.definition(), study.plan(), {})
    assert run(["ui", "smal", "--home", str(places.home)]) == 2
    assert re.fullmatch(r"hdvae: no study smal in .*; did you mean 'small'\?\n", capsys.readouterr().err)
