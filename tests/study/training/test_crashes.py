"""A run whose process dies again and again, on a real Ray cluster."""

from __future__ import annotations

import json
import os
import signal

from tests.study.helpers.outcome import tracked, wait_until, workers_of


def test_a_run_that_is_killed_again_and_again_fails_and_the_study_goes_on(nodes, places, edit, on_nodes, start):
    """Three deaths without a report in between; meanwhile, the status says what happened last."""
    space = {"training.steps": {"choices": [1_000_000, 20]}}
    file = edit({"space": space, "seeds": [0], "experiment/evaluation/every": 20_000, "resources": {"concurrent": 1}})
    driver = start("study", "run", file)
    attempts = places.home / "studies/small/trial-0000/seed-0/attempts"
    killed: set[int] = set()

    def training():
        below = {pid for node in nodes.nodes for pid in workers_of(node.pid)}
        return below - killed

    for attempt in (1, 2, 3):
        wait_until(lambda number=attempt: (attempts / f"{number:04d}.json").exists() and training())
        if attempt == 3:
            row = json.loads(on_nodes("study", "status", "small", "--json").stdout)["trials"][0]
            told = (row["state"], row["step"], row["attempts"], row["error"], row["checkpoint"], row["seconds_left"])
            assert told == ("RUNNING", 0, 3, "its process was killed", None, None)
        for pid in training():
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    out, errors = driver.communicate(timeout=120)
    assert driver.returncode == 1, out + errors
    assert out.count("its process was killed; it is started again") == 2
    first, second = json.loads(on_nodes("study", "status", "small", "--json").stdout)["trials"]
    assert (first["state"], first["attempts"]) == ("FAIL", 3)
    assert first["error"].startswith("its process was killed, 3 times without a report")
    assert (second["state"], second["step"], second["error"]) == ("COMPLETE", 20, None)
    assert f"small/0/0: {first['error']}" in on_nodes("study", "status", "small").stdout
    assert {key: run.status for key, run in tracked(places)[1].items()} == {(0, 0): "FAILED", (1, 0): "FINISHED"}
