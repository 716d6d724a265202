"""A whole small study on real Ray, SQLite and MLflow, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest

import hdvae
import hdvae_platform
from hdvae.errors import InputError
from hdvae.training.sealed import seal
from hdvae_platform.cli import run as run_here
from hdvae_platform.commands.study import run as run_command
from hdvae_platform.running import launch
from hdvae_platform.search.search import Search
from hdvae_platform.search.trials import known_trials
from hdvae_platform.store.images import load_data
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.tracker import SERVER_WAIT
from tests.study.helpers.commands import Command
from tests.study.helpers.outcome import series, tracked


def test_a_study_ends_with_its_table(finished):
    _, _, done, _ = finished
    assert "runs 6/6" in done.stdout
    assert "Small things run fast." in done.stdout
    for word in (
        "latent normal",
        "relaxation_bias",
        "iw_elbo",
        "watch it run: hdvae ui small",
        "hdvae compare small",
        "left",
    ):
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
        assert run.tags["hdvae.data_overlap"].startswith("24 of 24 valid images are also in train (valid 0 = train ")
        assert run.tags["hdvae.fingerprint"]
        assert run.params["model.layers.0.classes"] == "4"
        assert run.params["seed"] == run.tags["hdvae.seed"]
        steps = {step for _, step in series(places, run.run_id)}
        assert steps == {10, 20}
        memories = json.loads(run.tags["hdvae.arm"])["model.latent"] == "categorical"
        pictures = list((places.home / "artifacts").glob(f"{run.run_id}/artifacts/*.png"))
        assert sorted(picture.name for picture in pictures) == ["samples.png", *(["slots.png"] if memories else [])]
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_mlflow_shows_the_arms_and_names_runs_by_their_settings(finished):
    places, _, _, _ = finished
    (parent,), children = tracked(places)
    said = parent.tags["mlflow.note.content"]
    assert said.startswith("Small things run fast.")
    arms = ("latent normal", "latent categorical, temperature 0.1", "latent categorical, temperature 0.8→0.1 at 20")
    for trial, arm in enumerate(arms):
        assert any(line.startswith(f"| ({trial}) {arm} |") for line in said.splitlines())
    assert children[0, 1].tags["mlflow.runName"] == "small/0/1: latent normal"
    assert "- temperature 0.8→0.1 at 20" in children[2, 0].tags["mlflow.note.content"]


def test_mlflow_sorts_studies_by_their_main_numbers(finished):
    places, _, _, _ = finished
    (parent,), children = tracked(places)
    numbers = parent.metrics
    assert [numbers[f"study/{state}"] for state in ("complete", "pruned", "failed")] == [6, 0, 0]
    elbos = {trial: [children[trial, seed].metrics["valid/elbo"] for seed in (0, 1)] for trial in range(3)}
    best = max(elbos, key=lambda trial: sum(elbos[trial]))
    assert (numbers["study/best_trial"], numbers["valid/elbo"]) == (best, pytest.approx(sum(elbos[best]) / 2))
    assert {"valid/relaxation_bias", "valid/kl"} <= numbers.keys()
    assert "viewStateShareKey=small" in Client(places).runs_page("small")


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


def test_a_report_that_cannot_be_written_takes_nothing_from_the_study(finished):
    places, file, _, run = finished
    reports, kept = places.home / "reports", places.home / "kept"
    reports.rename(kept)
    reports.write_text("in the way")
    done = run("study", "run", file, "--json")
    reports.unlink()
    kept.rename(reports)
    assert done.returncode == 0
    printed = json.loads(done.stdout)
    assert (len(printed["arms"]), len(printed["answers"][0]["best"])) == (3, 1)
    assert done.stderr.endswith("; there is no report: `hdvae report small` writes it\n")
    assert done.stderr.count("\n") == 1


def test_a_result_that_cannot_be_kept_is_shown_all_the_same(finished):
    places, file, first, run = finished
    result, kept = places.home / "reports/small/result.json", places.home / "kept.json"
    result.rename(kept)
    (result / "in the way").mkdir(parents=True)
    done = run("study", "run", file)
    shutil.rmtree(result)
    kept.rename(result)
    assert done.returncode == 0
    assert done.stdout.endswith(first.stdout[first.stdout.index("\nsmall: ") :])
    assert done.stderr.startswith("the result cannot be kept for the next call: ")
    assert done.stderr.count("\n") == 1


def test_a_study_that_ended_between_two_runs_is_no_finished_one(finished, monkeypatch, capsys):
    """Every run that there is is complete, and others are to come."""
    places, file, _, _ = finished
    records = Records(places.database)
    stopped = launch.Ended(records.runs("small"), finished=False, sent=True)
    monkeypatch.setattr(run_command, "kept_result", lambda *asked: None)
    monkeypatch.setattr(launch, "run_study", lambda *asked: stopped)
    assert run_here(["study", "run", str(file), "--home", str(places.home)]) == 130
    printed = capsys.readouterr()
    assert "stopped before its end; run the same command again to continue" in printed.err
    assert "Report" not in printed.out


def test_a_finished_study_does_not_wait_for_a_server_that_is_away(finished):
    places, file, _, _ = finished
    environment = {"HDVAE_HOME": str(places.home), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    start = time.monotonic()
    done = Command("study", "run", file, environment=environment).completed()
    assert time.monotonic() - start < SERVER_WAIT
    assert done.returncode == 0, done.stderr
    away = "MLflow at http://127.0.0.1:9 does not answer: connection refused; "
    assert done.stdout == f"{away}all runs have ended, and the same command sends MLflow later what it lacks\n"
    assert done.stderr == f"{away}the study is safe: `hdvae compare small` shows it later\n"


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
    assert row["handle"] == "small/2/1"
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


def test_more_than_the_machine_has(places, edit, hdvae):
    file = edit({"resources": {"cpus_per_worker": 1000}})
    done = hdvae("study", "run", file)
    assert done.returncode == 2
    assert "a run needs 1000 CPU, but the cluster has" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert Records(places.database).studies() == [], "its file may still be changed"
    assert tracked(places) == ([], {})


@pytest.fixture
def begun(places, edit):
    """Records a study of one trial whose only run has failed: the study, and what is known of it."""

    def record(changes):
        study = load_study(edit(changes))
        definition = {**study.definition(), "data_checksum": load_data(study.experiment, places.home).checksum}
        records = Records(places.database)
        records.define(study.name, definition, study.plan(), provenance.code())
        records.take(study.name, "this test")
        search = Search(study, places.database, records)
        run = search.next()
        search.fail(run.trial, run.seed, "non-finite kl at step 3")
        records.release(study.name, "this test")
        return lambda: (
            replace(records.study(study.name), launch=0),
            records.runs(study.name),
            known_trials(study, places.database),
            records.changes(study.name),
        )

    return record


def test_a_refused_launch_changes_nothing(places, edit, begun):
    """Here it is refused for its folder; on a cluster the machines are looked at after that, and before any change."""
    known = begun({"seeds": [0], "search": {"method": "grid", "trials": 1}})
    before = known()
    Storage(places.storage).write("small/study.json", seal("small", "study.json", {"created": 1.0, "launch": 1}))
    more = load_study(edit({"seeds": [0, 1], "search": {"method": "grid"}, "claim": "Another one."}))
    with pytest.raises(InputError, match="belongs to a study small of another study database"):
        launch.run_study(more, places, print, launch.Launch(retry_failed=True))
    assert known() == before
    assert tracked(places) == ([], {})


def test_a_folder_that_does_not_say_whose_it_is(places, edit, begun):
    begun({"seeds": [0]})
    Storage(places.storage).write("small/study.json", b"null")
    with pytest.raises(InputError, match=r"study.json is damaged: .*; delete it if the folder belongs to this study$"):
        launch.run_study(load_study(edit({"seeds": [0]})), places, print, launch.Launch())


def test_seeds_cannot_be_taken_away(places, edit, begun):
    begun({"seeds": [0]})
    with pytest.raises(InputError, match=r"begun with seeds \[0\]: \[0\] cannot be taken away"):
        launch.run_study(load_study(edit({"seeds": [1]})), places, print, launch.Launch())


def test_own_images_may_be_elsewhere_at_the_next_launch(places, edit, begun, tmp_path):
    """`study submit` sends them to a folder of the cluster; their checksum says that they are the same."""
    begun({"seeds": [0]})
    shutil.copy(tmp_path / "images.npz", tmp_path / "moved.npz")
    moved = load_study(edit({"experiment/data/path": str(tmp_path / "moved.npz"), "seeds": [0]}))
    Storage(places.storage).write("small/study.json", seal("small", "study.json", {"created": 1.0, "launch": 1}))
    with pytest.raises(InputError, match="belongs to a study"):  # which is looked at after the definition
        launch.run_study(moved, places, print, launch.Launch())
    others = {name: 1 - images for name, images in np.load(tmp_path / "images.npz").items()}
    np.savez(tmp_path / "moved.npz", **others)
    with pytest.raises(InputError, match="data_checksum was"):
        launch.run_study(moved, places, print, launch.Launch())


def test_a_folder_of_another_databases_study_is_left_alone(places, edit, hdvae):
    """Two people with study databases of their own, a storage in common, and the same idea for a name."""
    file = edit({"space": {}, "seeds": [0]})
    folder = Path(places.storage) / "small"
    folder.mkdir(parents=True)
    (folder / "study.json").write_bytes(seal("small", "study.json", {"created": 1.0, "launch": 1}))
    done = hdvae("study", "run", file)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{folder} belongs to a study small of another study database: give this one another name" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["study.json"]
    assert Records(places.database).studies() == []


def test_commands_that_only_read_do_not_wait_for_torch(finished, tmp_path):
    """It takes two seconds to import. In a process made anew, since the one that others are forked from has it."""
    places, _, _, _ = finished
    home = ["--home", str(places.home)]
    words = [
        ["study", "list", *home],
        ["study", "status", "small", *home],
        ["study", "export", "small", "--out", str(tmp_path / "out"), *home],
        ["compare", "small", *home],
        ["report", "small", "--out", str(tmp_path / "report"), *home],
    ]
    code = "import sys\nfrom hdvae_platform.cli import run\n"
    code += f"codes = [run(one) for one in {words!r}]\nprint(codes, 'torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[0, 0, 0, 0, 0] False\n"
