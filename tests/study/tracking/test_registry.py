"""The best model of a study in MLflow's registry, and the loaders of the platform."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.trained import TrainedModel
from hdvae.training.state import TrainState
from hdvae_platform.tracking.client import Client
from tests.study.helpers.mlflow_server import serving
from tests.study.tracking.test_client import IDENTITY

SHAPE = (6, 5)
EXPERIMENT = {
    "data": {"path": "images.npz"},
    "model": {"blocks": "dense", "width": 8, "depth": 1, "layers": [{"variables": 3, "classes": 4}]},
    "training": {"steps": 9, "batch_size": 16, "temperature": 0.5},
}


@pytest.fixture(scope="module")
def model():
    state = TrainState.fresh(parse(Experiment, EXPERIMENT, "test"), SHAPE, seed=3, device=torch.device("cpu"))
    return TrainedModel.of(state.snapshot())


@pytest.fixture
def images_of():
    return np.random.RandomState(0).randint(2, size=(3, *SHAPE)).astype(np.uint8)


def register(client, model, step=1):
    run_id = client.open_run("a", {}, IDENTITY)
    client.register("some", run_id, {"hdvae.run_id": run_id, "hdvae.step": str(step)}, lambda: model, "says")
    return run_id


def versions(places):
    return mlflow.MlflowClient(places.tracking).search_model_versions("name = 'some'")


def test_a_model_is_registered_once_for_each_state(places, model):
    client = Client(places)
    for _ in range(2):
        run_id = register(client, model)
    (version,) = versions(places)
    assert (version.run_id, version.description, version.tags["hdvae.step"]) == (run_id, "says", "1")
    register(client, model, step=2)
    assert sorted(version.tags["hdvae.step"] for version in versions(places)) == ["1", "2"]
    register(client, model, step=2)
    assert len(versions(places)) == 2


def test_a_model_that_is_there_is_not_read_again(places, model):
    client = Client(places)
    run_id = register(client, model)
    identity = {"hdvae.run_id": run_id, "hdvae.step": "1"}
    client.register("some", run_id, identity, lambda: pytest.fail("it was read"), "says")


def test_as_a_pyfunc_it_gives_what_the_library_gives(places, model, images_of, monkeypatch):
    register(Client(places), model)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", places.tracking)
    loaded = mlflow.pyfunc.load_model("models:/some/1")
    ask = {"samples": 7, "seed": 2}
    assert loaded.predict(images_of, params=ask) == pytest.approx(model.iw_elbo(images_of, 7, 2).numpy())
    for what, wanted in (("reconstruct", model.reconstruct(images_of, 2)), ("sample", model.sample(3, 2))):
        assert loaded.predict(images_of, params={**ask, "what": what}) == pytest.approx(wanted.numpy())
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        loaded.predict(np.zeros((1, 5, 6), np.uint8))
    with pytest.raises(InputError, match="what is 'smaple'"):
        loaded.predict(images_of, params={"what": "smaple"})


def test_nothing_in_it_is_a_pickle_and_the_library_lies_beside_it(places, model):
    register(Client(places), model)
    (folder,) = places.home.glob("artifacts/*/artifacts/model")
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {"", ".py", ".json", ".yaml", ".txt", ".typed", ".safetensors"}
    assert (folder / "code/hdvae/trained.py").exists()
    assert "loaders.code_model" in (folder / "MLmodel").read_text()
    pins = (folder / "requirements.txt").read_text().split()
    assert {"mlflow", "torch", "safetensors"} <= {pin.partition("==")[0] for pin in pins}
    assert all("+" not in pin for pin in pins)


def test_it_works_where_the_platform_is_not(places, model, images_of, tmp_path):
    """In a process that finds neither package of this repository but in the model."""
    register(Client(places), model)
    np.save(tmp_path / "images.npy", images_of)
    (folder,) = places.home.glob("artifacts/*/artifacts/model")
    code = (
        "import sys; sys.modules['hdvae_platform'] = None\n"
        "import mlflow, numpy\n"
        f"model = mlflow.pyfunc.load_model({str(folder)!r})\n"
        f"print(*model.predict(numpy.load({str(tmp_path / 'images.npy')!r}), params={{'samples': 7}}))\n"
        "import hdvae; print(hdvae.__file__)\n"
    )
    arguments = [sys.executable, "-P", "-S", "-c", f"import sys; sys.path += {site()!r}\n{code}"]
    done = subprocess.run(arguments, capture_output=True, text=True, env={}, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    values, where = done.stdout.splitlines()
    assert [float(value) for value in values.split()] == pytest.approx(model.iw_elbo(images_of, 7).tolist())
    assert Path(where).is_relative_to(folder)


def site() -> list[str]:
    """Where other packages are: without the paths of an editable install, which only `site` reads."""
    return [path for path in sys.path if path.endswith("site-packages")]


def test_on_a_server(places, model, images_of):
    artifacts = ["--artifacts-destination", str(places.home / "artifacts"), "--serve-artifacts"]
    with serving(places.tracking, *artifacts) as server:
        there = dataclasses.replace(places, tracking=server, artifacts=None)
        client = Client(there)
        for _ in range(2):
            register(client, model)
        assert len(versions(there)) == 1
        found = client.registered("models:/some/latest")
        assert found.iw_elbo(images_of, 5).equal(model.iw_elbo(images_of, 5))
