"""A whole small study on real Ray, SQLite and MLflow, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
import sqlalchemy as sa

import hdvae
import hdvae_platform
from hdvae.checkpoints import standing, written_by
from hdvae_platform import provenance
from hdvae_platform.checkpointing import Checkpoints, Journal, run_folder
from hdvae_platform.fencing import Attempt
from hdvae_platform.records import Records, connect
from hdvae_platform.storage import Storage
from hdvae_platform.study import load_study
from hdvae_platform.tracking import Client
from hdvae_platform.worker import RunSpec, load_data

from .conftest import command


def tracked(places):
    client = Client(places)
    runs = list(client.find({"hdvae.study": "small"}))
    parents = [run for run in runs if run.tags["hdvae.kind"] == "study"]
    children = {
        (int(run.tags["hdvae.trial"]), int(run.tags["hdvae.seed"])): run
        for run in runs
        if run.tags["hdvae.kind"] == "run"
    }
    assert len(runs) == len(parents) + len(children), "a trial × seed has two MLflow runs"
    return parents, children


def series(places, run_id):
    """Every stored point of a run: (metric, step) → (value, time)."""
    import mlflow

    client = mlflow.MlflowClient(places.tracking)
    points = {}
    for metric in client.get_run(run_id).data.metrics:
        for point in client.get_metric_history(run_id, metric):
            assert (metric, point.step) not in points, "a point is there twice"
            points[metric, point.step] = (point.value, point.timestamp)
    return points


def tensors(places, trial, seed, step=20):
    checkpoints = Checkpoints(Storage(places.storage), run_folder("small", trial, seed))
    return Path(checkpoints.address(step)).read_bytes()


def test_a_study_ends_with_its_table(finished):
    _, _, done, _ = finished
    assert "runs 6/6" in done.stdout
    assert "Small things run fast." in done.stdout
    for word in ("latent normal", "relaxation_bias", "iw_elbo", "hdvae ui", "hdvae compare small", "left"):
        assert word in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_one_parent_and_one_child_for_each_trial_and_seed(finished):
    places, _, _, _ = finished
    parents, children = tracked(places)
    assert [run.status for run in parents] == ["FINISHED"]
    assert sorted(children) == [(trial, seed) for trial in range(3) for seed in (0, 1)]
    for run in children.values():
        assert run.status == "FINISHED"
        assert run.tags["mlflow.parentRunId"] == parents[0].run_id
        assert run.tags["hdvae.checkpoint"].endswith("000000020-0001.safetensors")
        assert len(run.tags["hdvae.data_checksum"]) == 64
        assert run.tags["hdvae.fingerprint"]
        assert run.params["model.layers.0.classes"] == "4"
        assert run.params["seed"] == run.tags["hdvae.seed"]
        steps = {step for _, step in series(places, run.run_id)}
        assert steps == {10, 20}
        memories = json.loads(run.tags["hdvae.arm"])["model.latent"] == "categorical"
        pictures = list((places.home / "artifacts").glob(f"{run.run_id}/**/*.png"))
        assert sorted(picture.name for picture in pictures) == ["samples.png", *(["slots.png"] if memories else [])]
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_mlflow_shows_the_arms_and_names_runs_by_their_settings(finished):
    places, _, _, _ = finished
    (parent,), children = tracked(places)
    said = parent.tags["mlflow.note.content"]
    assert said.startswith("Small things run fast.")
    for arm in ("latent normal", "temperature 0.1", "temperature 0.8→0.1 at 20"):
        assert any(line.startswith("| latent") and arm in line for line in said.splitlines())
    assert children[0, 1].tags["mlflow.runName"] == "trial 0: latent normal, seed 1"
    assert "- temperature 0.8→0.1 at 20" in children[2, 0].tags["mlflow.note.content"]


def test_the_best_run_is_registered_and_can_be_loaded(finished):
    places, _, _, _ = finished
    children = tracked(places)[1]
    (version,) = mlflow.MlflowClient(places.tracking).search_model_versions("name = 'small'")
    best = max(range(3), key=lambda trial: sum(children[trial, seed].metrics["valid/elbo"] for seed in (0, 1)))
    run = max((children[best, seed] for seed in (0, 1)), key=lambda run: run.metrics["valid/elbo"])
    assert version.run_id == run.run_id
    found = hdvae_platform.load("models:/small/latest", places.home)
    images = found.sample(3).round()
    assert found.iw_elbo(images, 3).equal(hdvae.load(run.tags["hdvae.checkpoint"]).iw_elbo(images, 3))


def test_bias_is_the_difference_of_the_means(finished):
    places, _, _, _ = finished
    for run in tracked(places)[1].values():
        for suffix in ("", "@tau=0.1", "@tau=0.5"):
            surrogate = run.metrics[f"valid/surrogate_elbo{suffix}"]
            bias = run.metrics[f"valid/relaxation_bias{suffix}"]
            assert bias == pytest.approx(abs(surrogate - run.metrics["valid/elbo"]), abs=1e-9)
        assert run.metrics["valid/relaxation_bias"] == run.metrics["valid/relaxation_bias@tau=0.1"]
        if json.loads(run.tags["hdvae.arm"])["model.latent"] == "normal":
            assert run.metrics["valid/relaxation_bias"] == 0
        else:
            assert run.metrics["valid/relaxation_bias"] > 0
        assert run.metrics["valid/iw_elbo"] == run.metrics["valid/iw_elbo@S=5"]


def test_optuna_is_told_the_mean_over_seeds(finished):
    places, _, _, _ = finished
    children = tracked(places)[1]
    for trial in optuna.load_study(study_name="small", storage=places.database).trials:
        assert trial.state == optuna.trial.TrialState.COMPLETE
        values = [children[trial.number, seed].metrics["valid/elbo"] for seed in (0, 1)]
        assert trial.value == pytest.approx(np.mean(values), abs=1e-12)


def test_again_it_trains_nothing_and_prints_the_table(finished):
    places, file, _, run = finished
    before = {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")}
    points = {key: series(places, child.run_id) for key, child in tracked(places)[1].items()}
    start = time.monotonic()
    again = run("study", "run", file)
    assert again.returncode == 0
    assert "relaxation_bias" in again.stdout
    assert "runs " not in again.stdout.split("small:")[0]
    assert time.monotonic() - start < 60
    assert {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")} == before
    assert {key: series(places, child.run_id) for key, child in tracked(places)[1].items()} == points
    assert len(mlflow.MlflowClient(places.tracking).search_model_versions("name = 'small'")) == 1


def test_compare_as_json(finished):
    places, _, _, run = finished
    done = run("compare", "small", "--json")
    document = json.loads(done.stdout)
    assert document["studies"] == ["small"]
    assert len(document["arms"]) == 3
    children = tracked(places)[1]
    for trial, arm in enumerate(document["arms"]):
        assert (arm["runs"], arm["pruned"], arm["failed"], arm["seeds"]) == (2, 0, 0, [0, 1])
        assert arm["run_ids"] == [children[trial, seed].run_id for seed in (0, 1)]
        for metric in ("elbo", "iw_elbo", "surrogate_elbo", "kl", "relaxation_bias", "relaxation_bias_se"):
            entry = arm["metrics"][f"valid/{metric}"]
            assert entry["values"] == [children[trial, seed].metrics[f"valid/{metric}"] for seed in (0, 1)]
            assert entry["low"] <= entry["mean"] <= entry["high"]
    assert {d["paired"] for d in document["differences"]} == {True}
    text = run("compare", "small", "--by", "model.latent", "--metric", "kl").stdout
    assert "latent categorical" in text
    assert "valid/kl" in text


def test_compare_refuses_what_it_cannot_compare(finished):
    _, _, _, run = finished
    for arguments, words in [
        (["compare", "smal"], "did you mean 'small'"),
        (["compare", "small", "--metric", "elbow"], "did you mean 'valid/elbo'"),
        (["compare", "small", "--by", "model.latnt"], "did you mean 'model.latent'"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_status_and_list(finished):
    _, _, _, run = finished
    status = json.loads(run("study", "status", "small", "--json").stdout)
    assert (status["study"], status["state"]) == ("small", "finished")
    assert len(status["trials"]) == 6
    row = status["trials"][-1]
    assert (row["number"], row["seed"], row["state"], row["step"], row["attempts"]) == (2, 1, "COMPLETE", 20, 1)
    assert row["error"] is None
    assert os.path.exists(row["checkpoint"])  # noqa: PTH110 - as a user would look
    assert row["params"] == {"model.latent": "categorical", "training.temperature": [[0, 0.8], [20, 0.1]]}
    assert row["run_id"]
    listed = json.loads(run("study", "list", "--json").stdout)
    assert listed[0]["complete"] == 6
    assert "finished" in run("study", "list").stdout
    assert "COMPLETE" in run("study", "status", "small").stdout
    missing = run("study", "status", "smal")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "did you mean 'small'" in missing.stderr
    assert "not running" in run("study", "stop", "small").stdout


def test_another_definition_needs_another_name(finished):
    _, file, _, run = finished
    done = run("study", "run", file, "--set", "training.steps=21")
    assert done.returncode == 2
    assert "experiment.training.steps was 20, is 21" in done.stderr
    assert done.stderr.count("\n") == 1


def test_interrupted_then_resumed_is_the_uninterrupted_study(finished, places, edit, hdvae):
    """Ctrl-C in mid-study, then the same command: nothing is lost, repeated or different."""
    reference, _, _, _ = finished
    file = edit({"experiment/data/path": str(reference.home.parent / "images.npz")})
    environment = {**os.environ, "HDVAE_HOME": str(places.home)}
    process = subprocess.Popen(
        command(["study", "run", file]), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "runs 2/6" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(seen) + errors
    assert "goes on" in errors
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


def test_failures_end_their_trial_and_the_study_goes_on(places, edit, hdvae):
    """An absurd learning rate gives a real non-finite loss."""
    file = edit({"space": {"training.learning_rate": {"choices": [1e30, 0.002]}}, "seeds": [0]})
    done = hdvae("study", "run", file)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "non-finite" in done.stderr
    _, children = tracked(places)
    assert {key: run.status for key, run in children.items()} == {(0, 0): "FAILED", (1, 0): "FINISHED"}
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [row["state"] for row in status["trials"]] == ["FAIL", "COMPLETE"]
    assert "step" in status["trials"][0]["error"]
    assert "1 failed" in hdvae("compare", "small").stdout


def test_a_failed_run_is_retried_from_its_checkpoint(finished, places, edit, hdvae):
    """A folder in the way of its last checkpoint crashes each attempt at a run, which then fails.

    With the folder gone, it goes on where it stood.
    """
    reference, _, _, _ = finished
    file = edit({"experiment/data/path": str(reference.home.parent / "images.npz"), "seeds": [0]})
    folder = places.home / "studies/small/trial-0001/seed-0"
    obstacles = [folder / f"checkpoints/000000020-000{attempt}.safetensors" for attempt in (1, 2, 3)]
    for obstacle in obstacles:
        (obstacle / "full").mkdir(parents=True)
    failed = hdvae("study", "run", file)
    assert failed.returncode == 1, failed.stderr
    assert "--retry-failed` starts them again" in failed.stderr
    assert (folder / "error.txt").read_text().count("\n") > 5
    assert failed.stdout.count("; it is started again") == 2
    (row,) = [row for row in json.loads(hdvae("study", "status", "small", "--json").stdout)["trials"] if row["error"]]
    assert (row["number"], row["attempts"]) == (1, 3)
    assert row["error"].endswith(", 3 times without a report in between")
    parents, children = tracked(places)
    assert [parents[0].status, children[1, 0].status] == ["FAILED", "FAILED"]

    for obstacle in obstacles:
        shutil.rmtree(obstacle)
    assert hdvae("study", "run", file).returncode == 1, "without the flag a failure stands"
    retried = hdvae("study", "run", file, "--retry-failed")
    assert retried.returncode == 0, retried.stderr
    assert "trial 1 seed 0 goes on from step 10" in retried.stdout
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"FINISHED"}
    assert len(children) == 3
    assert children[1, 0].tags["hdvae.state"] == "COMPLETE"
    assert not (folder / "error.txt").exists()
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "finished"
    assert [(row["state"], row["attempts"], row["error"]) for row in status["trials"]] == [
        ("COMPLETE", 1, None),
        ("COMPLETE", 4, None),
        ("COMPLETE", 1, None),
    ]
    assert tensors(places, 1, 0) == tensors(reference, 1, 0)
    assert "failed" not in hdvae("compare", "small").stdout


def test_other_code_goes_on_with_a_study_only_if_that_is_accepted(places, edit, hdvae, tmp_path, monkeypatch):
    file = edit({"space": {}, "seeds": [0]})
    assert hdvae("study", "run", file).returncode == 0
    root = Path(provenance.__file__).parents[2]
    for package in ("hdvae", "platform"):
        shutil.copytree(root / package, tmp_path / "other" / package)
    (tmp_path / "other/hdvae/model.py").open("a").write("CHANGED = True\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/other{os.pathsep}{tmp_path}/other/platform")

    refused = hdvae("study", "run", file)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    before = Records(connect(places.database)).study("small").code["sources"]
    assert f"was run with hdvae {provenance.code()['version']} (sources {before[:8]}" in refused.stderr
    assert "--accept-code-change" in refused.stderr
    assert Records(connect(places.database)).changes("small") == []

    accepted = hdvae("study", "run", file, "--accept-code-change", "--set", "seeds=[0, 1]")
    assert accepted.returncode == 0, accepted.stderr
    (code,) = (change for change in Records(connect(places.database)).changes("small") if change.what == "code")
    assert code.before["sources"] == before != code.after["sources"]
    assert code.after["sources"][:8] in refused.stderr
    _, children = tracked(places)
    assert [children[0, seed].tags["hdvae.sources"] for seed in (0, 1)] == [before, code.after["sources"]]
    assert hdvae("study", "run", file, "--set", "seeds=[0, 1]").returncode == 0
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{root}/platform")
    assert hdvae("study", "run", file, "--set", "seeds=[0, 1]").returncode == 2


def test_a_poor_arm_is_pruned(places, edit, hdvae):
    """An arm that hardly learns is stopped at its first report, and the process that ran it goes on with the next."""
    file = edit(
        {
            "experiment/training/steps": 40,
            "space": {"training.learning_rate": {"choices": [0.002, 1e-9, 2e-9, 0.02]}},
            "search": {"pruner": "asha"},
            "resources": {"concurrent": 1},
        }
    )
    done = hdvae("study", "run", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 1 seed 0 pruned at step 10, valid/elbo -" in done.stdout
    assert "runs 6/6" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "finished"
    assert [(r["number"], r["seed"], r["state"], r["step"], r["attempts"]) for r in status["trials"]] == [
        (0, 0, "COMPLETE", 40, 1),
        (0, 1, "COMPLETE", 40, 1),
        (1, 0, "PRUNED", 10, 1),
        (2, 0, "PRUNED", 10, 1),
        (3, 0, "COMPLETE", 40, 1),
        (3, 1, "COMPLETE", 40, 1),
    ]
    assert "4 of 6 runs done, 2 pruned, 0 failed" in hdvae("study", "status", "small").stdout
    trials = optuna.load_study(study_name="small", storage=places.database).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    parents, children = tracked(places)
    assert [run.status for run in parents] == ["FINISHED"]
    for (number, seed), run in children.items():
        values = {
            step: value for (name, step), (value, _) in series(places, run.run_id).items() if name == "valid/elbo"
        }
        assert sorted(values) == ([10] if number in (1, 2) else [10, 20, 30, 40])
        assert run.status == ("KILLED" if number in (1, 2) else "FINISHED")
        assert run.tags["hdvae.state"] == ("PRUNED" if number in (1, 2) else "COMPLETE")
        if seed == 0:
            assert trials[number].intermediate_values == values
    document = json.loads(hdvae("compare", "small", "--json").stdout)
    assert [(arm["runs"], arm["pruned"], len(arm["metrics"]) > 0) for arm in document["arms"]] == [
        (2, 0, True),
        (0, 1, False),
        (0, 1, False),
        (2, 0, True),
    ]
    assert "0 + 1 pruned" in hdvae("compare", "small").stdout

    before = {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")}
    assert hdvae("study", "run", file).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")} == before


def test_winners_are_confirmed_on_fresh_seeds(places, edit, hdvae):
    file = edit(
        {
            "space": {"training.learning_rate": {"choices": [0.002, 1e-9]}},
            "confirm": {"top": 1, "seeds": 3},
            "seeds": [0],
        }
    )
    done = hdvae("study", "run", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs 5/5" in done.stdout
    assert "confirmation of trial 0" in done.stdout
    assert "confirmed on fresh seeds" in done.stdout
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert status["state"] == "finished"
    kinds = [(row["number"], row["kind"]) for row in status["trials"]]
    assert kinds == [(0, "search"), *[(0, "confirmation")] * 3, (1, "search")]
    fresh = sorted(row["seed"] for row in status["trials"] if row["kind"] == "confirmation")
    document = json.loads(hdvae("compare", "small", "--json").stdout)
    assert [(arm["runs"], arm["seeds"]) for arm in document["arms"]] == [(1, [0]), (1, [0])]
    (one,) = document["confirmations"]
    assert (one["trial"], one["seeds"], one["metric"]) == (0, fresh, "valid/elbo")
    assert one["search"] == document["arms"][0]["metrics"]["valid/elbo"]["mean"]
    assert one["shrinkage"] == pytest.approx(one["search"] - np.mean(one["confirmed"]["values"]))
    assert one["confirmed"]["low"] < one["confirmed"]["mean"] < one["confirmed"]["high"]
    runs = list(Client(places).find({"hdvae.study": "small", "hdvae.kind": "confirmation"}))
    assert sorted(int(run.tags["hdvae.seed"]) for run in runs) == fresh
    assert {run.status for run in runs} == {"FINISHED"}
    journals = [Journal(Storage(places.storage), run_folder("small", 0, seed)).entry(20) for seed in fresh]
    assert one["confirmed"]["values"] == [entry.metrics["valid/elbo"] for entry in journals]
    assert len(set(one["confirmed"]["values"])) == 3
    refused = hdvae("study", "run", file, "--set", f"seeds=[0, {fresh[0]}]")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "not fresh" in refused.stderr


def test_sigterm_and_relative_paths(places, edit, tmp_path):
    """SIGTERM is an interrupt as well; images and storage by relative paths are the same files for every process."""
    steps = {"experiment/training/steps": 1_000_000, "experiment/evaluation/every": 20, "seeds": [0]}
    file = edit({**steps, "experiment/data/path": "images.npz"})
    environment = {**os.environ, "HDVAE_HOME": str(places.home), "HDVAE_STORAGE": "elsewhere"}
    process = subprocess.Popen(
        command(["study", "run", file.name]), env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 90
    while time.monotonic() < limit and not list(tmp_path.glob("elsewhere/small/*/*/checkpoints/*.json")):
        time.sleep(0.5)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("\n") == 1, errors
    assert list(tmp_path.glob("elsewhere/small/*/*/checkpoints/*.json"))
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"KILLED"}


def test_a_killed_process_is_started_again_and_nothing_is_lost(finished, places, edit, hdvae):
    """SIGKILL of a worker in mid-run: it goes on from its checkpoint, and standard output is still one document."""
    file = edit({"experiment/training/steps": 4000, "experiment/evaluation/every": 100, "seeds": [0], "space": {}})
    environment = {**os.environ, "HDVAE_HOME": str(places.home)}
    process = subprocess.Popen(
        command(["study", "run", file, "--json"]),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 90
    while time.monotonic() < limit and not list(places.home.glob("studies/small/*/*/checkpoints/*.json")):
        time.sleep(0.1)
    killed = workers_of(process.pid)
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    out, errors = process.communicate(timeout=180)
    assert len(killed) == 1
    assert process.returncode == 0, errors
    assert "its process was killed; it is started again" in errors
    assert "Traceback" not in errors
    assert json.loads(out)["arms"][0]["runs"] == 1
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["attempts"]) for row in status["trials"]] == [("COMPLETE", 2)]
    _, children = tracked(places)
    assert [run.status for run in children.values()] == ["FINISHED"]
    assert {step for _, step in series(places, children[0, 0].run_id)} == set(range(100, 4001, 100))


ORPHAN = """
import json, sys
from hdvae_platform.fencing import Fenced
from hdvae_platform.worker import RunSpec, run
try:
    run(RunSpec(**json.loads(sys.argv[1])), lambda word: "step" in word and print("step", word["step"], flush=True))
except Fenced as fence:
    print(fence, flush=True)
"""


def wait_until(condition, seconds=90):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not condition():
        time.sleep(0.05)
    assert condition()


def test_a_worker_that_outlives_its_killed_driver_changes_nothing(places, edit, hdvae, tmp_path):
    """SIGKILL of the driver while a worker is asleep, which wakes up when the second launch has gone on.

    The second launch sees that the driver of this machine is dead, and does not wait for its lease.
    """
    steps, every = 1500, 50
    file = edit({"experiment/training/steps": steps, "experiment/evaluation/every": every, "seeds": [0], "space": {}})
    spec = spec_of(file, places)
    folder = places.home / "studies/small/trial-0000/seed-0"
    environment = {**os.environ, "HDVAE_HOME": str(places.home)}
    driver = subprocess.Popen(command(["study", "run", file]), env=environment, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(folder.glob("checkpoints/*.json"))) >= 2)
    driver.kill()
    driver.communicate()

    orphan = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, json.dumps(spec.plain())], stdout=subprocess.PIPE, text=True
    )
    begun = [orphan.stdout.readline(), orphan.stdout.readline()]
    orphan.send_signal(signal.SIGSTOP)
    try:
        second = subprocess.Popen(
            command(["study", "run", file]), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: list(folder.glob("checkpoints/*-0002.json")))
        orphan.send_signal(signal.SIGCONT)
        last_words, _ = orphan.communicate(timeout=60)
        _, errors = second.communicate(timeout=120)
    finally:
        orphan.kill()
    assert second.returncode == 0, errors
    assert all(line.startswith("step") for line in begun)
    assert "attempt 2 has taken over from attempt 1" in last_words

    journal = Journal(Storage(places.storage), spec.folder)
    assert journal.steps() == list(range(every, steps + 1, every))
    taken = json.loads((folder / "attempts/0002.json").read_text())
    for kind in ("journal", "checkpoints"):
        names = standing(Storage(places.storage), spec.folder, kind)
        assert {written_by(name) for name in names} <= {1, 2}
        assert all(name in taken[kind] for name in names if written_by(name) == 1)
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["attempts"], row["error"]) for row in status["trials"]] == [("COMPLETE", 2, None)]
    _, children = tracked(places)
    assert {step for _, step in series(places, children[0, 0].run_id)} == set(journal.steps())

    alone = replace(spec, storage=str(tmp_path / "alone"))
    subprocess.run([sys.executable, "-c", ORPHAN, json.dumps(alone.plain())], check=True, capture_output=True)
    (expected,) = (tmp_path / "alone").glob(f"**/{steps:09d}-0001.safetensors")
    assert tensors(places, 0, 0, steps) == expected.read_bytes()


def test_a_driver_that_was_taken_for_dead_ends_and_changes_nothing(places, edit, hdvae):
    """It slept while another launch ran the study to its end."""
    file = edit({"experiment/training/steps": 1500, "experiment/evaluation/every": 50, "seeds": [0], "space": {}})
    environment = {**os.environ, "HDVAE_HOME": str(places.home)}
    asleep = subprocess.Popen(
        command(["study", "run", file]), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: list(places.home.glob("studies/small/*/*/checkpoints/*.json")))
    put_to_sleep(asleep, places)
    try:
        forget_the_driver(places)
        second = hdvae("study", "run", file)
        assert second.returncode == 0, second.stderr
        before = {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")}
        asleep.send_signal(signal.SIGCONT)
        _, errors = asleep.communicate(timeout=90)
    finally:
        asleep.kill()
    assert asleep.returncode == 2, errors
    assert errors.splitlines()[-1].endswith("study small is run by another driver, which took it from this one")
    assert "Traceback" not in errors
    assert {path: path.stat().st_mtime_ns for path in places.home.glob("studies/**/*")} == before
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"FINISHED"}
    assert {step for _, step in series(places, children[0, 0].run_id)} == set(range(50, 1501, 50))
    status = json.loads(hdvae("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["attempts"], row["error"]) for row in status["trials"]] == [("COMPLETE", 2, None)]


def put_to_sleep(process, places):
    """Stop a driver, but not while it holds a lock of an SQLite file: that would lock everyone out with it."""

    def is_free(file):
        with contextlib.closing(sqlite3.connect(places.home / file, timeout=0.2, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return False
        return True

    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        if is_free("optuna.db") and is_free("mlflow.db"):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("the driver never let go of its databases")


def spec_of(file, places):
    """What the first attempt at the only run of a study is given."""
    study = load_study(file)
    attempt = Attempt(Storage(places.storage), run_folder(study.name, 0, 0), 1)
    checksum = load_data(study.experiment, places.home).checksum
    return RunSpec.of(study.experiment, 0, attempt, places, threads=1, gpus=0, data_checksum=checksum)


def forget_the_driver(places):
    """As if it had been silent for long."""
    with sa.create_engine(places.database).begin() as db:
        db.execute(sa.text("UPDATE hdvae_studies SET beat = 0"))


def workers_of(driver, kind="ray::ImplicitFunc"):
    """Process ids of the Ray workers that train below a driver."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()[1:]]
    below = {driver}
    for _ in rows:
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return [int(pid) for pid, _, name in rows if int(pid) in below and name.startswith(kind)]


def test_more_than_the_machine_has_and_fewer_seeds(places, edit, hdvae):
    file = edit({"resources": {"cpus_per_worker": 1000}})
    done = hdvae("study", "run", file)
    assert done.returncode == 2
    assert "a run needs 1000 CPU, but the cluster has" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    file = edit({"resources": {}, "seeds": [1]})
    done = hdvae("study", "run", file)
    assert done.returncode == 2
    assert "[0] cannot be taken away" in done.stderr


def test_stop_from_another_shell(places, edit, hdvae):
    file = edit({"experiment/training/steps": 1_000_000, "experiment/evaluation/every": 20, "seeds": [0]})
    environment = {**os.environ, "HDVAE_HOME": str(places.home)}
    process = subprocess.Popen(command(["study", "run", file]), env=environment, stderr=subprocess.PIPE, text=True)
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
    assert "goes on" in errors
    assert json.loads(hdvae("study", "status", "small", "--json").stdout)["state"] == "interrupted"
    parents, children = tracked(places)
    assert {run.status for run in [*parents, *children.values()]} == {"KILLED"}


def test_a_folder_of_another_databases_study_is_left_alone(places, edit, hdvae):
    """Two people with study databases of their own, a storage in common, and the same idea for a name."""
    file = edit({"space": {}, "seeds": [0]})
    folder = Path(places.storage) / "small"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"created": 1.0}))
    done = hdvae("study", "run", file)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{folder} is of a study small that another study database knows: give this one another name" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["study.json"]
