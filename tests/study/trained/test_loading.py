"""A trained run is found by each of its names: a handle, an id, a registered model, a folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import hdvae
import hdvae_platform
from hdvae.config import parse
from hdvae.errors import InputError
from hdvae_platform.cli import run as command
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import RunKind, Tag
from hdvae_platform.tracking.study_run import run_identity
from hdvae_platform.trained.loading import find_run, places_of
from tests.study.tracking.test_registry import EXPERIMENT, images_of, model  # noqa: F401 - fixtures

STUDY = "some"


@pytest.fixture
def kept(places, model):  # noqa: F811 - a fixture
    """The id in MLflow and the folder of run some/2/5, which is registered; the model; and an unsent run some/3/5."""
    study = parse(Study, {"name": STUDY, "claim": "c", "experiment": EXPERIMENT}, "study")
    records, client = Records(places.database), Client(places)
    records.define(STUDY, study.definition(), study.plan(), {})
    run_id = client.open_run("a", {}, run_identity(STUDY, RunKind.SEARCH, 2, 5))
    for trial, known, value in ((2, run_id, -1.0), (3, None, -2.0)):
        model.save(Path(places.storage) / run_folder(STUDY, trial, 5))
        records.add_run(STUDY, trial, 5)
        records.set_run(STUDY, trial, 5, attempts=1, state="COMPLETE", value=value, run_id=known)
    folder = Storage(places.storage).address(run_folder(STUDY, 2, 5))
    client.set_tags(run_id, {Tag.CHECKPOINT: f"{folder}/checkpoints/{0:09d}-0000.safetensors"})
    client.register(STUDY, run_id, {Tag.RUN_ID: run_id, Tag.STEP: "0"}, lambda: model, "says")
    return run_id, folder


def test_every_name_leads_to_the_same_weights(places, model, images_of, kept):  # noqa: F811
    run_id, folder = kept
    wanted = model.iw_elbo(images_of, 5)
    names = {
        f"{STUDY}/2/5": f"{STUDY}/2/5",
        f"{STUDY}/best": f"{STUDY}/2/5",
        run_id: f"{STUDY}/2/5",
        f"runs:/{run_id}": f"{STUDY}/2/5",
        f"models:/{STUDY}/1": f"{STUDY}/2/5",
        f"models:/{STUDY}/latest": f"{STUDY}/2/5",
        folder: None,
        f"{folder}/checkpoints": None,
    }
    for name, handle in names.items():
        found = find_run(name, places_of(name, places.home))
        assert (found.handle, found.run_id, found.note) == (handle, handle and run_id, None), name
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = hdvae_platform.load(name, places.home)
        assert loaded.iw_elbo(images_of, 5).equal(wanted), name
        assert loaded.experiment == model.experiment
    assert hdvae.load(folder).iw_elbo(images_of, 5).equal(wanted)


def test_a_handle_is_found_without_mlflow(places, kept, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert hdvae_platform.load(f"{STUDY}/2/5", places.home).step == 0
    assert find_run(f"{STUDY}/3/5", places).run_id is None


@pytest.mark.parametrize(("name", "other"), [(f"{STUDY}/3/5", "a handle"), ("0123456789abcdef" * 2, "an MLflow id")])
def test_an_existing_folder_wins_and_that_is_said(places, model, kept, tmp_path, monkeypatch, name, other):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Storage(str(tmp_path)).write(f"{name}/checkpoints/none", b"")
    note = f"{name} exists as a file or folder here, so it is not looked up as {other}"
    with pytest.warns(UserWarning, match=note) as said, pytest.raises(InputError, match="no checkpoint there"):
        hdvae_platform.load(name, places.home)
    assert said[0].filename == __file__
    model.save(tmp_path / name)
    with pytest.warns(UserWarning, match=note):
        assert hdvae_platform.load(name, places.home).step == 0


def test_the_command_says_it_too(places, model, kept, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / STUDY / "2" / "5")
    picture = tmp_path / "picture.png"
    for asked, note in ((f"{STUDY}/2/5", True), (f"{STUDY}/3/5", False)):
        assert command(["sample", asked, "--out", str(picture), "--home", str(places.home), "--count", "2"]) == 0
        assert ("exists as a file or folder here" in capsys.readouterr().err) == note


def test_an_evaluation_by_handle_is_logged_to_the_run(places, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    splits = {split: random.randint(2, size=(8, 6, 5)).astype(np.uint8) for split in ("train", "valid", "test")}
    np.savez("images.npz", **splits)
    flags = ["--samples", "2", "--draws", "1", "--home", str(places.home), "--json"]
    run_id, folder = kept
    for name, handle, logged in ((f"{STUDY}/2/5", f"{STUDY}/2/5", True), (folder, None, False)):
        Client(places).set_tags(run_id, {Tag.TEST_MEASURED: ""})
        assert command(["evaluate", name, *flags]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["run"], document["handle"]) == (name, handle)
        assert bool(Client(places).get(run_id).tags[Tag.TEST_MEASURED]) == logged


def test_a_name_of_nothing_is_refused(places, kept):
    for name, words in {
        "models:/none/1": "no registered model none",
        f"models:/{STUDY}/9": f"newest version of {STUDY} is 1",
        f"models:/{STUDY}": "write models:/NAME/VERSION",
        "0123456789abcdef" * 2: "no such MLflow run, nor a folder; .* are named STUDY/TRIAL/SEED",
        "runs:/0123456789abcdef": "no such MLflow run",
        "nowhere/at/all": "no checkpoint there",
        "nowhere/2/5": "no run nowhere/2/5: no study nowhere",
        f"{STUDY}/4/5": f"no run {STUDY}/4/5: study {STUDY} has trials 2 to 3",
    }.items():
        with pytest.raises(InputError, match=words):
            hdvae_platform.load(name, places.home)
