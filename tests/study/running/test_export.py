"""The records of a finished study, as a person who has nothing but the files reads them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from pyarrow import parquet

from hdvae.experiment.experiment import fingerprint
from hdvae_platform.running.export import export
from hdvae_platform.store.records import Records
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking.client import Client


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "new" / "small"
    done = finished[-1]("study", "export", "small", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == {"study": "small", "files": [str(file) for file in sorted(out.iterdir())]}
    return out


def test_nothing_but_the_files_is_left(exported):
    names = ["history.json", "images.parquet", "metrics.parquet", "runs.parquet", "study.yaml"]
    assert [file.name for file in sorted(exported.iterdir())] == names
    assert [file.name for file in exported.parent.iterdir()] == ["small"]


def test_the_study_file_is_the_study(finished, exported):
    study = load_study(exported / "study.yaml")
    assert fingerprint(study.definition()) == fingerprint(load_study(finished[1]).definition())
    assert study.plan() == load_study(finished[1]).plan()


def test_runs_and_metrics_are_those_of_mlflow(finished, exported):
    client = Client(finished[0])
    runs = parquet.read_table(exported / "runs.parquet").to_pylist()
    assert [(run["trial"], run["seed"], run["state"], run["step"]) for run in runs] == [
        (trial, seed, "COMPLETE", 20) for trial in range(3) for seed in range(2)
    ]
    assert json.loads(runs[2]["settings"]) == {"model.latent": "categorical", "training.temperature": 0.1}
    points = parquet.read_table(exported / "metrics.parquet").to_pylist()
    for run in runs:
        own = {
            (point["metric"], point["step"], point["value"])
            for point in points
            if (point["trial"], point["seed"]) == (run["trial"], run["seed"])
        }
        assert own == set(client.history(run["run_id"]))


def test_values_of_each_image_have_the_reported_mean(exported):
    images = parquet.read_table(exported / "images.parquet").to_pandas()
    points = parquet.read_table(exported / "metrics.parquet").to_pandas()
    last = points[(points.step == 20) & (points.metric == "valid/elbo")].set_index(["trial", "seed"]).value
    means = images.groupby(["trial", "seed"]).elbo.mean()
    assert len(means) == 6
    assert means.to_dict() == pytest.approx(last.to_dict())


def test_where_it_comes_from(exported):
    history = json.loads((exported / "history.json").read_text())
    assert len(history["code"]["sources"]) == 64
    assert history["launches"] >= 1
    assert history["data_checksum"]
    assert history["looks"] == []


@pytest.mark.parametrize("there", ["file", "folder"])
def test_nothing_is_written_over(finished, tmp_path, there):
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    done = finished[-1]("study", "export", "small", "--out", out)
    assert (done.returncode, done.stderr) == (2, f"hdvae: --out {out}: is not empty; give a new folder\n")
    assert (out if there == "file" else out / "mine").read_text() == "mine"


def test_no_such_study(finished, tmp_path):
    done = finished[-1]("study", "export", "smal", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean 'small'?" in done.stderr
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named_and_left_out(finished, tmp_path):
    """A status and an export of the rest, which is all that they do not need these files for."""
    places = finished[0]
    record = Records(places.database).study("small")
    storage = tmp_path / "studies"
    shutil.copytree(places.storage, storage)
    damaged = ["trial-0000/seed-0/journal/000000010-0001.json", "trial-0001/seed-1/attempts/0001.json"]
    damaged += ["trial-0002/seed-0/per_image/valid-000000020-0001.parquet"]
    for name in damaged:
        file = storage / "small" / name
        file.write_bytes(file.read_bytes()[:-3])
    elsewhere, said = replace(places, storage=str(storage)), []
    whole = export(places, record, tmp_path / "whole", said.append)
    assert said == []
    export(elsewhere, record, tmp_path / "rest", said.append)
    assert len(said) == len(damaged)
    assert all(any(name in line for line in said) for name in damaged)
    tables = {}
    for folder in ("whole", "rest"):
        for table in ("metrics", "images"):
            rows = parquet.read_table(tmp_path / folder / f"{table}.parquet").to_pylist()
            tables[folder, table] = {json.dumps(row, default=str) for row in rows}
    assert {json.loads(row)["step"] for row in tables["whole", "metrics"] - tables["rest", "metrics"]} == {10}
    lost = tables["whole", "images"] - tables["rest", "images"]
    runs = {(json.loads(row)["trial"], json.loads(row)["seed"]) for row in lost}
    assert runs == {(2, 0)}
    assert len(whole) == 5
