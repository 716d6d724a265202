"""A small study on small images, and homes to run it in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import mlflow
import numpy as np
import pytest
import yaml

from benchmarks.nodes import Node, Nodes
from benchmarks.postgres import Postgres, binaries, free_port, running
from hdvae_platform.search.trials import optuna_storage
from hdvae_platform.store.database import connect
from hdvae_platform.store.places import Places
from tests.study.helpers import ray_start
from tests.study.helpers.commands import Command, Forked
from tests.study.helpers.nursery import nurseries
from tests.study.helpers.outcome import workers_of
from tests.study.helpers.stand_in import NURSERY

STUDY = """
name: small
claim: Small things run fast.
experiment:
  data: {path: images.npz}
  model:
    blocks: dense
    width: 8
    depth: 1
    layers: [{variables: 2, classes: 4}, {variables: 1, classes: 4}]
  training: {steps: 20, batch_size: 16, temperature: 0.5}
  evaluation: {every: 10, images: 20, draws: 2, samples: 5, tau: [0.1, 0.5]}
space:
  model.latent: {choices: [normal, categorical]}
  training.temperature: {choices: [0.1, [[0, 0.8], [20, 0.1]]], when: {model.latent: categorical}}
search: {method: grid}
seeds: [0, 1]
"""


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A run in this process flushes them to zero, for the rest of it: other tests, and Hypothesis, have them back."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def ray_processes() -> Iterator[None]:
    """What Ray's processes are forked from; see `helpers/nursery.py`."""
    with nurseries() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(NURSERY, folder)
        yield


@pytest.fixture(scope="session")
def images() -> dict[str, np.ndarray]:
    """Stripes at random places: something that a model can learn."""
    random = np.random.RandomState(0)
    splits = {}
    for split, count in (("train", 64), ("valid", 24), ("test", 24)):
        rows = np.zeros((count, 6, 5), dtype=np.uint8)
        rows[np.arange(count), random.randint(6, size=count)] = 1
        splits[split] = rows
    return splits


@pytest.fixture(scope="session")
def made_databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose databases are made already: that takes some seconds."""
    home = tmp_path_factory.mktemp("made")
    made = Places.under(home)
    mlflow.MlflowClient(made.tracking).search_experiments()
    connect(made.database)
    optuna_storage(made.database)
    return home


@pytest.fixture
def places(tmp_path: Path, made_databases: Path) -> Places:
    """An empty home of its own for the test, with its databases ready."""
    home = tmp_path / "runs"
    home.mkdir()
    for name in ("mlflow.db", "optuna.db"):
        shutil.copy(made_databases / name, home / name)
    return Places.under(home)


@pytest.fixture
def study_file(tmp_path: Path, images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small study, in a folder with its images, which is the working folder."""
    np.savez(tmp_path / "images.npz", **images)
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.replace("images.npz", str(tmp_path / "images.npz")))
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture
def edit(study_file: Path) -> Callable[..., Path]:
    """Change fields of the study file: `edit({"a.b": value, "c.d": None})`; None removes."""

    def change(changes: dict[str, object]) -> Path:
        plain = yaml.safe_load(study_file.read_text())
        for path, value in changes.items():
            *outer, last = path.split("/")
            at = plain
            for part in outer:
                at = at[int(part)] if isinstance(at, list) else at[part]
            if value is None:
                del at[last]
            else:
                at[int(last) if isinstance(at, list) else last] = value
        study_file.write_text(yaml.safe_dump(plain, sort_keys=False))
        return study_file

    return change


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server, for all tests."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (no initdb)")
    with running() as server:
        yield server


class S3:
    """A real server that speaks S3. It can go away and come back, and forgets nothing: its memory is this process's."""

    def __init__(self) -> None:
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self.back()

    def back(self) -> None:
        """Serve."""
        from moto.server import ThreadedMotoServer  # takes seconds to import, and few tests need it

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def away(self) -> None:
        """Refuse connections."""
        self._server.stop()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """The server for all tests; processes find it by their environment."""
    server = S3()
    environment = {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield server
    server.away()


@pytest.fixture
def bucket(s3: S3) -> str:
    """The address of an empty bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty storage of each kind."""
    return str(tmp_path / "storage") if request.param == "local" else f"{request.getfixturevalue('bucket')}/some/where"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty study database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database(f"study-{uuid.uuid4().hex}")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes an empty database of each kind: its URL, by a name."""
    if request.param == "sqlite":
        return lambda name: f"sqlite:///{tmp_path}/{name}.db"
    server: Postgres = request.getfixturevalue("postgres")
    return lambda name: server.database(f"{tmp_path.name}-{name}")


Hdvae = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(places: Places) -> Callable[..., Command]:
    """Start the real command in a process of its own. Its pictures are blanks: see `finished` for real ones."""

    def run(*arguments: str | Path, **options: Any) -> Command:
        return Command(*arguments, pictures=False, **{"environment": {"HDVAE_HOME": str(places.home)}, **options})

    return run


@pytest.fixture
def hdvae(start: Callable[..., Command]) -> Hdvae:
    """Run the real command to its end."""
    return lambda *arguments: start(*arguments).completed()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, made_databases: Path, images: dict[str, np.ndarray]
) -> tuple[Places, Path, subprocess.CompletedProcess[str], Hdvae]:
    """The small study, run to its end by the command; for the tests that only look at it.

    Where it lives, its file, what the command printed, and the command.
    """
    folder = tmp_path_factory.mktemp("finished")
    np.savez(folder / "images.npz", **images)
    file = folder / "small.yaml"
    file.write_text(STUDY.replace("images.npz", str(folder / "images.npz")))
    home = folder / "runs"
    home.mkdir()
    shutil.copy(made_databases / "mlflow.db", home / "mlflow.db")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return Command(*arguments, environment={"HDVAE_HOME": str(home)}, cwd=folder).completed()

    done = run("study", "run", file)
    assert done.returncode == 0, done.stderr
    return Places.under(home), file, done, run


class QuickNodes(Nodes):
    """Nodes that are forked from the process that the commands are forked from, and workers from the nursery."""

    def started(
        self, number: int, words: Sequence[str], before: Sequence[str], environment: dict[str, str], log: Path
    ) -> Node:
        """`ray start` as Ray has it, but for where its processes come from."""
        if before:  # a command that starts another
            words = [words[0], str(Path(ray_start.__file__)), *words[3:]]
            return super().started(number, words, before, environment, log)
        return Forked(ray_start.node, words[3:], log, environment=environment)

    def processes(self, kind: str) -> list[int]:
        """Those of workers too, which the nursery has for children."""
        return [pid for node in [self._head, *self.nodes] for pid in workers_of(node.pid, kind)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A real Ray cluster for the tests of a file: a head without work, and two nodes with a CPU each."""
    made = QuickNodes((1, 1))  # not for all tests: idle it takes a sixth of a core
    yield made
    made.end()


@pytest.fixture
def on_nodes(nodes: Nodes, hdvae: Hdvae, monkeypatch: pytest.MonkeyPatch) -> Hdvae:
    """Run the real command on the cluster of nodes."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    return hdvae
