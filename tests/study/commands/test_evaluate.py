"""`hdvae evaluate` on a run that was really trained, with what it prints, writes and logs."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sqlite3

import mlflow
import pytest
from PIL import Image
from pyarrow import parquet

from hdvae_platform.cli import run
from hdvae_platform.store.per_image import NOTES, read_per_image
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.trained import assessment
from tests.study.commands.test_cli import fails
from tests.study.helpers.commands import Command

TAUS = ("0.05", "0.5")
FILES = ["test-bias.png", "test-bias.svg", "test-convergence.png", "test-convergence.svg", "test.json", "test.parquet"]
FLAGS = ["--tau", ",".join(TAUS), "--samples", "7", "--draws", "3"]


@pytest.fixture
def trained(capsys, places, study_file):
    assert run(["train", str(study_file), "--home", str(places.home), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_quantity_at_every_temperature(capsys, places, trained):
    assert run(["evaluate", trained["run"], *FLAGS, "--home", str(places.home), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["run"], document["split"], document["images"]) == (trained["run"], "test", 24)
    assert document["grade"] == "certified"
    metrics = document["metrics"]
    assert metrics["iw_elbo"] == metrics["iw_elbo@S=7"]
    for tau in TAUS:
        at = {name: metrics[f"{name}@tau={tau}"] for name in ("coupled_bias", "jensen_bound", "lipschitz_bound")}
        assert at["coupled_bias"] <= at["jensen_bound"] <= at["lipschitz_bound"]
        assert metrics[f"relaxed_elbo@tau={tau}"] <= metrics[f"coupled_elbo@tau={tau}"]
    kappa, parts = document["kappa"], document["kappa_parts"]
    assert kappa["log p(x|·) in z̃ of layer_1"] > kappa["log p(x|·) in the reads of layer_1"] > 0
    assert {"level 1: expand", "level 1: keys", "values of layer_2"} <= set(parts)


def test_the_bound_is_shown_for_fewer_samples(capsys, places, trained, tmp_path):
    flags = ["--samples", "120", "--draws", "1", "--images", "4", "--home", str(places.home)]
    assert run(["evaluate", trained["run"], *flags, "--out", str(tmp_path / "found")]) == 0
    out = capsys.readouterr().out
    metrics = json.loads((tmp_path / "found" / "test.json").read_text())["metrics"]
    counts = (1, 10, 100, 120)
    assert "iw_elbo for S = " + ", ".join(f"{s}: {metrics[f'iw_elbo@S={s}']:.2f}" for s in counts) in out
    assert not list((places.home / "unfinished").iterdir())


def test_it_is_logged_to_the_run_with_its_step_values_and_figure(capsys, places, trained):
    assert run(["evaluate", trained["run"], *FLAGS, "--home", str(places.home), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    client = mlflow.MlflowClient(places.tracking)
    stored = client.get_run(trained["run"]).data.metrics
    for name, value in metrics.items():
        key = f"test/{name}".replace("@tau=", " at tau ").replace("@S=", " at S ")
        assert stored[key] == pytest.approx(value), key
    history = client.get_metric_history(trained["run"], "test/elbo")
    assert [point.step for point in history] == [20]
    measured = json.loads(client.get_run(trained["run"]).data.tags["hdvae.test_measured"])
    assert measured == {"images": 24, "draws": 3, "samples": 7, "tau": [0.05, 0.5], "kappa": "certified"}
    names = {file.path for file in client.list_artifacts(trained["run"], "evaluation")}
    assert names == {f"evaluation/{name}" for name in FILES}


def test_files_are_written_where_they_are_wanted(capsys, places, trained, tmp_path):
    out = tmp_path / "found"
    folder = trained["checkpoint"].rsplit("/", 2)[0]
    assert run(["evaluate", folder, *FLAGS, "--out", str(out), "--home", str(places.home)]) == 0
    shown = capsys.readouterr().out
    for word in ("elbo", "Jensen", "certified", "factor of κ", "24 test images", "not logged", "bias.png"):
        assert word in shown
    assert sorted(file.name for file in out.iterdir()) == FILES
    with Image.open(out / "test-bias.png") as picture:
        assert picture.width > 500
        assert len(set(picture.convert("L").tobytes())) > 10
    table = parquet.read_table(out / "test.parquet")
    document = json.loads((out / "test.json").read_text())
    assert table["image"].to_pylist() == list(range(24))
    for name in ("elbo", "jensen_bound@tau=0.5", "iw_elbo@S=7", "distance/layer_2@tau=0.05"):
        values = table[name].to_pylist()
        assert sum(values) / 24 == pytest.approx(document["metrics"][name])
    assert json.loads(table.schema.metadata[NOTES])["kappa"] == "certified"


def test_the_local_grade_and_fewer_images_of_another_split(capsys, places, trained):
    arguments = ["evaluate", trained["run"], "--kappa", "local", "--images", "5", "--split", "valid", "--json"]
    assert run([*arguments, "--samples", "2", "--draws", "1", "--home", str(places.home)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["grade"], document["images"], document["split"]) == ("local", 5, "valid")
    client = mlflow.MlflowClient(places.tracking)
    stored = client.get_run(trained["run"]).data.metrics
    assert stored["valid/elbo"] == trained["metrics"]["valid/elbo"], "training's, by which arms are compared"
    assert len(client.get_metric_history(trained["run"], "valid/elbo")) == 2
    assert "test/elbo" not in stored


def test_the_elbo_has_its_standard_error_beside_it(capsys, places, trained, study_file):
    """Of `hdvae evaluate`, and of `hdvae train`, which shows again what it has trained."""
    flags = [*FLAGS, "--home", str(places.home)]
    assert run(["evaluate", trained["run"], *flags, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert run(["evaluate", trained["run"], *flags]) == 0
    out = capsys.readouterr().out
    shown = [document[of]["elbo"] for of in ("metrics", "standard_errors")]
    assert "elbo {:.2f} ± {:.2f}   iw_elbo@S=7".format(*shown) in out
    assert "(± one standard error over images)" in out
    assert run(["train", str(study_file), "--home", str(places.home)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("valid/elbo ")]
    value, error = trained["metrics"]["valid/elbo"], trained["metrics"]["valid/elbo_se"]
    assert row.split() == ["valid/elbo", f"{value:.4g}", f"{error:.2g}"]


def test_normal_variables_have_neither_kappa_nor_figure(capsys, places, edit, tmp_path):
    file = edit({"experiment/model/latent": "normal", "space": None})
    assert run(["train", str(file), "--home", str(places.home), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)["run"]
    out = tmp_path / "found"
    assert run(["evaluate", trained, *FLAGS, "--out", str(out), "--home", str(places.home)]) == 0
    assert "κ" not in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == [file for file in FILES if "bias" not in file]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deadbeef"], "no such MLflow run"),
        (["RUN", "--tau", "0.1,0"], "a temperature must be at least 1e-06"),
        (["RUN", "--tau", "warm"], "no list of numbers"),
        (["RUN", "--split", "train"], "--split"),
        (["RUN", "--samples", "0"], "--samples"),
        (["RUN", "--samples", "2", "--out", "/proc/no"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_done(capsys, places, trained, arguments, said):
    given = [trained["run"] if argument == "RUN" else argument for argument in arguments]
    assert said in fails(capsys, "evaluate", *given, "--home", places.home)
    client = mlflow.MlflowClient(places.tracking)
    assert not client.list_artifacts(trained["run"], "evaluation")
    assert "test/elbo" not in client.get_run(trained["run"]).data.metrics


def test_what_was_found_is_not_lost_with_the_server(capsys, places, trained, tmp_path, monkeypatch):
    """MLflow knows the run, and is away when its evaluation is to be logged."""
    real = assessment.evaluate_with

    def evaluate(*arguments, **options):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        return real(*arguments, **options)

    monkeypatch.setattr(assessment, "evaluate_with", evaluate)
    monkeypatch.setattr(assessment, "Client", lambda places: Client(Places.under(places.home)))
    asked = ["evaluate", trained["run"], *FLAGS, "--home", str(places.home)]
    assert run([*asked, "--out", str(tmp_path / "found")]) == 0
    captured = capsys.readouterr()
    assert "factor of κ" in captured.out
    assert sorted(file.name for file in (tmp_path / "found").iterdir()) == FILES
    away = "MLflow at http://127.0.0.1:9 does not answer: connection refused; "
    assert captured.err == f"{away}the results are not logged: run the same command again to log them\n"


def test_what_was_found_is_not_lost_with_the_store_of_artifacts(capsys, places, trained, tmp_path):
    with contextlib.closing(sqlite3.connect(places.home / "mlflow.db")) as db, db:
        db.execute("UPDATE runs SET artifact_uri = 'file:///dev/null/nowhere'")
    # In a process of its own: MLflow remembers where the artifacts of a run are.
    done = Command("evaluate", trained["run"], *FLAGS, "--home", places.home, "--out", tmp_path / "found").completed()
    assert done.returncode == 0, done.stderr
    assert "factor of κ" in done.stdout
    assert sorted(file.name for file in (tmp_path / "found").iterdir()) == FILES
    advice = "the results are not logged: run the same command again to log them"
    assert re.fullmatch(f"MLflow at .*; {advice}\n", done.stderr), done.stderr


def test_a_contradicted_bound_is_loud(capsys, places, trained, monkeypatch):
    """A κ that is wrong by construction ends in exit code 1 and one line; nothing is logged."""
    from hdvae.bounds.bounds import Bound
    from hdvae.evaluation import chains

    real = chains.certified_bound

    def wrong(*arguments):
        bound = real(*arguments)
        return Bound(bound.soft * 1e-9, bound.read * 1e-9)

    monkeypatch.setattr(chains, "certified_bound", wrong)
    assert run(["evaluate", trained["run"], *FLAGS, "--home", str(places.home)]) == 1
    said = capsys.readouterr().err
    assert "above its certified bound" in said
    assert "a bug in hdvae" in said
    assert said.count("\n") == 1
    assert "test/elbo" not in mlflow.MlflowClient(places.tracking).get_run(trained["run"]).data.metrics


def test_training_keeps_the_values_of_each_image(places: Places, trained):
    storage, folder = (
        Storage(places.storage),
        trained["checkpoint"].rsplit("/", 2)[0].removeprefix(f"{places.storage}/"),
    )
    table = read_per_image(storage, folder, "valid")
    notes = json.loads(table.schema.metadata[NOTES])
    assert (notes["step"], notes["run"]) == (20, folder)
    assert table.num_rows == 20
    for name in ("elbo", "iw_elbo@S=5", "jensen_bound@tau=0.1", "coupled_elbo@tau=current"):
        assert sum(table[name].to_pylist()) / 20 == pytest.approx(trained["metrics"][f"valid/{name}"])
    client = mlflow.MlflowClient(places.tracking)
    path = client.download_artifacts(trained["run"], "per_image/valid.parquet")
    assert parquet.read_table(path).equals(table)


def test_a_table_is_a_whole_file(tmp_path):
    import torch

    from hdvae_platform.store.per_image import as_parquet

    data = as_parquet({"image": torch.arange(3), "elbo": torch.zeros(3).double()}, {"step": 1})
    assert parquet.read_table(io.BytesIO(data)).column_names == ["image", "elbo"]
