"""A whole small study on an S3 server that goes away, and from another home folder than the one it was begun in."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import boto3
import mlflow
import pytest

import hdvae_platform
from hdvae.errors import InputError
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.tracking.client import Client
from hdvae_platform.trained.loading import load_run
from tests.study.helpers.commands import Command
from tests.study.helpers.outcome import spec_of, train, wait_until

STEPS, EVERY = 600, 30
RUN = "small/trial-0000/seed-0"


@pytest.fixture
def shared(tmp_path, bucket, made_databases, monkeypatch):
    """What several machines share: the bucket, the study database and MLflow's; returns the bucket's folder."""
    shutil.copy(made_databases / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("HDVAE_STORAGE", f"{bucket}/some/where")
    monkeypatch.setenv("HDVAE_STUDY_DB", f"sqlite:///{tmp_path}/study.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return f"{bucket}/some/where"


def start(file, home):
    return Command("study", "run", file, environment={"HDVAE_HOME": str(home)})


def flip(storage, name):
    """Damage one bit of a file."""
    data = bytearray(storage.read(name))
    data[-1] ^= 1
    storage.write(name, bytes(data))


def test_a_study_on_s3_survives_its_server_and_its_machine(shared, s3, tmp_path, edit, bucket):
    steps = {"experiment/training/steps": STEPS, "experiment/evaluation/every": EVERY}
    file = edit({**steps, "seeds": [0], "space": {}})
    checkpoints, journal = Checkpoints(Storage(shared), RUN), Journal(Storage(shared), RUN)
    first = start(file, tmp_path / "first")
    wait_until(checkpoints.steps)
    s3.away()
    time.sleep(8)  # longer than the client tries by itself
    s3.back()
    before = len(journal.steps())
    wait_until(lambda: len(journal.steps()) > before + 1)
    first.terminate()
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 130, out + errors
    assert f"storage {shared}: " in out
    assert f"storage {shared} answers again" in out
    damaged = checkpoints.steps()[-1]
    kept = max(step for step in checkpoints.steps() if step < damaged)
    assert 0 < kept < damaged < STEPS
    flip(Storage(shared), checkpoints.address(damaged).removeprefix(f"{shared}/"))

    second = start(file, tmp_path / "second")
    out, errors = second.communicate(timeout=240)
    assert second.returncode == 0, out + errors
    assert f"goes on from step {kept}" in out
    assert (
        f"skipped a damaged checkpoint: {shared}/{RUN}/checkpoints/{damaged:09d}-0001.safetensors is damaged: " in out
    )
    assert f"{shared}/small" in out
    places = Places.under(tmp_path / "second")
    spec = spec_of(file, places)
    alone = replace(spec, storage=str(tmp_path / "alone"))
    assert train(alone).wait() == 0
    (expected,) = (tmp_path / "alone").glob(f"**/{STEPS:09d}-0001.safetensors")
    assert Storage(shared).read(f"{RUN}/checkpoints/{STEPS:09d}-0002.safetensors") == expected.read_bytes()
    assert journal.steps() == list(range(EVERY, STEPS + 1, EVERY))

    (run,) = (run for run in Client(places).find({"hdvae.study": "small"}) if run.tags["hdvae.kind"] == "run")
    assert run.status == "FINISHED"
    assert run.tags["hdvae.checkpoint"] == f"{shared}/{RUN}/checkpoints/{STEPS:09d}-0002.safetensors"
    for named in (run.run_id, f"{shared}/{RUN}", f"{shared}/{RUN}/checkpoints", run.tags["hdvae.checkpoint"]):
        assert load_run(named, places).values["step"] == STEPS
    assert hdvae_platform.load("models:/small/latest", places.home).step == STEPS
    artifacts = mlflow.MlflowClient(places.tracking).list_artifacts(run.run_id)
    assert {"samples.png", "per_image"} <= {artifact.path for artifact in artifacts}
    keys = {
        entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket.removeprefix("s3://"))["Contents"]
    }
    assert any(key.startswith("some/where/_artifacts/") and key.endswith("samples.png") for key in keys)
    assert any(key.startswith(f"some/where/{RUN}/per_image/valid-") for key in keys)
    for home, more in (("first", set()), ("second", {"reports"})):
        assert {path.name for path in Path(tmp_path / home).iterdir()} == {"ray.log", *more}


def test_a_server_that_stays_away(bucket, s3):
    storage = Storage(f"{bucket}/x")
    storage.write("file", b"old")
    s3.away()
    with pytest.raises(StorageAway, match="NETWORK_CONNECTION"):
        storage.write("file", b"new")
    s3.back()
    assert storage.read("file") == b"old"


def test_a_bucket_that_is_not_there_and_addresses_that_would_be_kept(bucket, tmp_path):
    Storage(bucket).check()
    assert Storage(bucket).list("") == []
    with pytest.raises(
        InputError, match=r"storage s3://no-such-bucket/x does not accept files: .*NO_SUCH_BUCKET.*HDVAE_STORAGE"
    ):
        Storage("s3://no-such-bucket/x").check()
    for address in ("s3://key:secret@bucket/x", "s3://bucket/x?endpoint_override=localhost"):
        with pytest.raises(InputError, match=r"give no password or endpoint in the address") as fault:
            Storage(address)
        assert "secret" not in str(fault.value)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="does not accept files: Not a directory"):
        Storage(str(tmp_path / "file/folder")).check()
