"""The images of a study on its storage, and the copy that a machine keeps."""

from __future__ import annotations

import tempfile

import pytest

from hdvae.data.dataset import Dataset
from hdvae.errors import InputError
from hdvae_platform.store.layout import shared_images
from hdvae_platform.store.shared_data import fetch, publish
from hdvae_platform.store.storage import Storage


def test_a_damaged_copy_is_read_again_and_a_damaged_original_is_named(tmp_path, images, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    storage, dataset = Storage(str(tmp_path / "storage")), Dataset.from_images("toy", images)
    publish(storage, "s", dataset)
    fetch(storage, "s", dataset.checksum)
    (kept,) = tmp_path.glob("hdvae-data-*/*.parquet")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    assert fetch(storage, "s", dataset.checksum).checksum == dataset.checksum
    assert kept.read_bytes() == whole
    original = shared_images("s", dataset.checksum)
    storage.write(original, whole[:100])
    kept.unlink()
    with pytest.raises(InputError, match=f"{storage.address(original)} is damaged: delete it, and run the study again"):
        fetch(storage, "s", dataset.checksum)
    with pytest.raises(InputError, match="there are no images"):
        fetch(storage, "t", dataset.checksum)
