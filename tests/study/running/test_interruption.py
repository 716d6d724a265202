"""A study that is told to end, by Ctrl-C, SIGTERM or `hdvae study stop`, and goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.study.helpers.commands import Command
from tests.study.helpers.outcome import listening, series, tensors, tracked, workers_of


def test_interrupted_then_resumed_is_the_uninterrupted_study(finished, places, edit, hdvae, start):
    """Ctrl-C in mid-study, then the same command: nothing is lost, repeated or different."""
    reference, _, _, _ = finished
    file = edit({"experiment/data/path": str(reference.home.parent / "images.npz")})
    process = start("study", "run", file)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "runs 2/6" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(seen) + errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    _, children = tracked(places)
    assert "RUNNING" not in {run.status for run in children.values()}
    done_before = {key: run for key, run in children.items() if run.status == "FINISHED"}
    assert len(done_before) >= 2
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "interrupted"

    resumed = hdvae("study", "run", file)
    assert resumed.returncode == 0, resumed.stderr
    parents, children = tracked(places)
    assert [run.status for run in parents] == ["FINISHED"]
    assert len(children) == 6
    for key, run in done_before.items():
        assert children[key] == run
    expected = tracked(reference)[1]
    for key, run in children.items():
        assert run.status == "FINISHED"
        values = {at: value for at, (value, _) in series(places, run.run_id).items()}
        assert values == {at: value for at, (value, _) in series(reference, expected[key].run_id).items()}
        assert tensors(places, *key) == tensors(reference, *key)


def test_sigterm_and_relative_paths(places, edit, tmp_path):
    """SIGTERM is an interrupt as well; images and storage by relative paths are the same files for every process.

    While it runs, no process of it listens beyond the loopback interface, and its Ray's files are nobody else's.
    """
    steps = {"experiment/training/steps": 1_000_000, "experiment/evaluation/every": 20, "seeds": [0]}
    file = edit({**steps, "experiment/data/path": "images.npz"})
    environment = {"HDVAE_HOME": str(places.home), "HDVAE_STORAGE": "elsewhere"}
    process = Command("study", "run", file.name, environment=environment, cwd=tmp_path)
    limit = time.monotonic() + 90
    while time.monotonic() < limit and not list(tmp_path.glob("elsewhere/small/*/*/checkpoints/*.json")):
        time.sleep(0.5)
    beyond = {address for address in listening(workers_of(process.pid, "")) if not address.is_loopback}
    sessions = Path(f"/tmp/hdvae-ray-{os.getuid()}")
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("\n") == 1, errors
    assert not beyond, "it could be reached from other machines"
    assert sessions.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.glob("elsewhere/small/*/*/checkpoints/*.json"))
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"KILLED"}


def test_stop_from_another_shell(places, edit, hdvae, start):
    file = edit({"experiment/training/steps": 1_000_000, "experiment/evaluation/every": 20, "seeds": [0]})
    process = start("study", "run", file)
    try:
        limit = time.monotonic() + 90
        while time.monotonic() < limit:
            time.sleep(1)
            status = hdvae("study", "status", "small", "--json")
            if status.returncode == 0 and any(r["step"] for r in json.loads(status.stdout)["trials"]):
                break
        rival = hdvae("study", "run", file)
        assert rival.returncode == 2
        assert "is being run by" in rival.stderr
        assert "asked to stop" in hdvae("study", "stop", "small").stdout
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run the same command again to continue" in errors
    assert json.loads(hdvae("study", "status", "small", "--json").stdout)["state"] == "interrupted"
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"KILLED"}
