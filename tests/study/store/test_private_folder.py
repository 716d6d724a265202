"""Folders for temporary files that no other user can enter."""

import os

import pytest

from hdvae.errors import InputError
from hdvae_platform.store.private_folder import private_folder


def test_it_is_made_closed_and_closed_again(tmp_path):
    folder = private_folder("some", tmp_path)
    assert folder == tmp_path / f"some-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert private_folder("some", tmp_path).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_somebody_has_put_there_is_refused(tmp_path, kind):
    there = tmp_path / f"some-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    there.symlink_to(tmp_path / "elsewhere") if kind == "link" else there.write_text("")
    with pytest.raises(InputError, match="belongs to another user"):
        private_folder("some", tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder for another user")
def test_a_folder_of_another_user_is_refused(tmp_path):
    there = tmp_path / f"some-{os.getuid()}"
    there.mkdir()
    os.chown(there, 12345, 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        private_folder("some", tmp_path)
