"""Storage: whole files or none, and patience with a disk that is really full."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time

import pytest

from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage, StorageAway
from tests.study.helpers.commands import Command

SIZE = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Take all the room that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    assert os.statvfs(folder).f_bavail == 0
    return filler


def test_a_full_disk_is_waited_for_and_said_once(small_disk):
    said = []
    storage = Storage(str(small_disk), patience=30, say=said.append)
    filler = fill(small_disk)
    timer = threading.Timer(2.5, filler.unlink)
    timer.start()
    start = time.monotonic()
    storage.write("run/file", b"y" * 5000)
    assert 2 < time.monotonic() - start < 15
    assert storage.read("run/file") == b"y" * 5000
    assert len(said) == 2
    assert "No space left on device; trying again for 30 s" in said[0]
    assert said[1].endswith("answers again")


def test_patience_ends_and_nothing_is_half_written(small_disk):
    storage = Storage(str(small_disk), patience=1.5)
    storage.write("file", b"old")
    fill(small_disk)
    with pytest.raises(StorageAway, match="No space left on device"):
        storage.write("file", b"z" * 200_000)
    assert storage.read("file") == b"old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["file", "filler"]


def test_what_patience_would_not_change_is_said_at_once(tmp_path):
    storage = Storage(str(tmp_path), patience=60)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    assert not storage.exists("nothing")
    assert storage.list("nothing") == []
    storage.delete_file("nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        storage.write("folder", b"x")
    assert time.monotonic() - start < 5


def test_a_study_on_a_full_disk_stops_resumably(small_disk, places: Places, edit):
    file = edit(
        {
            "experiment/training/steps": 600,
            "experiment/evaluation/every": 20,
            "seeds": [0],
            "space": {},
        }
    )
    environment = {"HDVAE_HOME": str(places.home), "HDVAE_STORAGE": str(small_disk), "HDVAE_PATIENCE": "2"}
    driver = Command("study", "run", file, environment=environment)
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not list(small_disk.glob("small/*/*/checkpoints/*.json")):
        time.sleep(0.05)
    filler = fill(small_disk)
    shown, errors = driver.communicate(timeout=120)
    assert driver.returncode == 1, shown + errors
    assert errors.count("\n") == 1
    assert "No space left on device" in errors
    assert "run the same command again to continue once this is fixed" in errors
    assert "trying again for 2 s" in shown

    def run(*arguments):
        return Command(*arguments, environment=environment).completed()

    (row,) = json.loads(run("study", "status", "small", "--json").stdout)["trials"]
    assert row["state"] == "WAITING"
    assert 0 < row["step"] < 600
    filler.unlink()
    done = run("study", "run", file)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(run("study", "status", "small", "--json").stdout)["trials"]
    assert (row["state"], row["step"], row["attempts"]) == ("COMPLETE", 600, 2)


@pytest.mark.parametrize("text", ["soon", "-1", "inf"])
def test_patience_is_a_number_of_seconds(monkeypatch, tmp_path, text):
    from hdvae.errors import InputError

    monkeypatch.setenv("HDVAE_PATIENCE", text)
    with pytest.raises(InputError, match="HDVAE_PATIENCE"):
        Places.under(tmp_path)


@pytest.mark.parametrize(
    "address", ["s3://key:a-secret-word@bucket/studies", "s3://bucket/studies?secret=a-secret-word"]
)
def test_a_storage_address_with_a_secret_is_refused_without_repeating_it(monkeypatch, tmp_path, address):
    from hdvae.errors import InputError

    monkeypatch.setenv("HDVAE_STORAGE", address)
    with pytest.raises(InputError, match="AWS_SECRET_ACCESS_KEY") as refused:
        Places.under(tmp_path)
    assert "a-secret-word" not in str(refused.value)
