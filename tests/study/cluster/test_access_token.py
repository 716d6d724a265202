"""Ray's token is made for its owner's eyes alone, and is not used where others can read it."""

import os
import re
import tempfile
from pathlib import Path

import pytest

from hdvae.errors import InputError
from hdvae_platform.cluster.access_token import ensure_token


@pytest.fixture(autouse=True)
def home(monkeypatch):
    """An empty home, on whose way nothing is closed to others as it is for the folders of tests."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("HOME", folder)
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_new_token_can_be_read_by_its_owner_alone(home):
    umask = os.umask(0o022)
    try:
        ensure_token()
    finally:
        os.umask(umask)
    file = home / ".ray/auth_token"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert re.fullmatch("[0-9a-f]{64}", file.read_text())
    assert [one.name for one in file.parent.iterdir()] == ["auth_token"]
    before = file.read_text()
    ensure_token()
    assert file.read_text() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(home, monkeypatch, mode):
    file = home / "token"
    file.write_text("word")
    file.chmod(mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(InputError, match=f"run `chmod 600 {file}`"):
        ensure_token()
    home.chmod(0o700)
    ensure_token()  # nobody else gets to it
    home.chmod(0o755)
    file.chmod(0o600)
    ensure_token()


def test_a_home_that_cannot_be_written_is_said(home):
    (home / ".ray").write_text("a file where the folder would be")
    with pytest.raises(InputError, match=r"Ray's token cannot be written: .*; set RAY_AUTH_TOKEN_PATH to a file"):
        ensure_token()


def test_a_token_in_the_environment_needs_no_file(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "word")
    ensure_token()
    assert not list(home.iterdir())
