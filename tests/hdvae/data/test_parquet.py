"""Parquet files: round trips, damage, and writing all or nothing."""

import contextlib
import resource
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hdvae.data import dataset as dataset_module
from hdvae.data.dataset import SPLITS, Dataset
from hdvae.data.parquet import read_parquet, write_parquet
from hdvae.errors import InputError
from tests.hdvae.data.samples import assert_same, names_in, one_line, random_dataset, random_images


@pytest.mark.parametrize("labelled", [(), ("train", "test"), SPLITS])
def test_parquet_keeps_everything(tmp_path, labelled):
    dataset = random_dataset()
    dataset = replace(dataset, labels={split: dataset.labels[split] for split in labelled})
    path = tmp_path / "new" / "toy.parquet"
    write_parquet(dataset, path)
    assert_same(read_parquet(path), dataset)
    assert names_in(path.parent) == ["toy.parquet"]


def test_parquet_has_the_documented_columns(tmp_path):
    dataset = replace(random_dataset(), labels={"valid": np.arange(5, dtype=np.int16)})
    write_parquet(dataset, tmp_path / "toy.parquet")
    table = pq.read_table(tmp_path / "toy.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "split": "dictionary<values=string, indices=int8, ordered=0>",
        "index": "int32",
        "label": "int16",
        "pixels": "fixed_size_binary[5]",
    }
    rows = table.to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 20 + ["valid"] * 5 + ["test"] * 4
    assert [row["index"] for row in rows] == [*range(20), *range(5), *range(4)]
    assert [row["label"] for row in rows] == [None] * 20 + [*range(5)] + [None] * 4
    assert rows[-1]["pixels"] == dataset.packed["test"][-1].tobytes()


def test_writing_replaces_an_older_file(tmp_path):
    path = tmp_path / "toy.parquet"
    write_parquet(random_dataset(seed=1), path)
    write_parquet(random_dataset(seed=2), path)
    assert_same(read_parquet(path), random_dataset(seed=2))
    assert names_in(tmp_path) == ["toy.parquet"]


def test_no_byte_of_a_damaged_file_goes_unnoticed(tmp_path):
    dataset, path = random_dataset(), tmp_path / "toy.parquet"
    write_parquet(dataset, path)
    intact = path.read_bytes()
    for position in range(0, len(intact), 5):
        damaged = bytearray(intact)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            found = read_parquet(path)
        except InputError:
            continue
        # Not every byte carries content.
        assert found.checksum == dataset.checksum
        assert all(np.array_equal(found.labels[split], dataset.labels[split]) for split in SPLITS)


@pytest.mark.parametrize("part", [0, 3, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path, part):
    path = tmp_path / "toy.parquet"
    write_parquet(random_dataset(), path)
    content = path.read_bytes()
    path.write_bytes(content[: part if isinstance(part, int) else int(len(content) * part)])
    with pytest.raises(InputError) as error:
        read_parquet(path)
    assert one_line(error).startswith(f"{path} is damaged or not a data set")
    assert one_line(error).endswith("run `hdvae data fetch toy`")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "toy.parquet"
    for table in (
        pa.table({"a": [1]}),
        pa.table({"a": [1]}).replace_schema_metadata({"hdvae": '{"name": "toy"}'}),
        pa.table({"split": ["train"], "pixels": ["x"]}).replace_schema_metadata({"hdvae": "[]"}),
    ):
        pq.write_table(table, path)
        with pytest.raises(InputError) as error:
            read_parquet(path)
        one_line(error)
    with pytest.raises(InputError) as error:
        read_parquet(tmp_path)
    one_line(error)


def test_a_file_with_a_constant_split_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "toy.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "check_varied", lambda *arguments: None)  # as a writer of another origin
        images = random_images() | {"valid": np.zeros((3, 5, 7), np.uint8)}
        write_parquet(Dataset.from_images("toy", images), path)
    with pytest.raises(InputError) as error:
        read_parquet(path)
    assert one_line(error).startswith(f"{path} is damaged or not a data set")
    assert "all pixels of split 'valid' are 0" in str(error.value)


def test_rows_in_another_order_are_refused(tmp_path):
    path = tmp_path / "toy.parquet"
    write_parquet(random_dataset(), path)
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)
    with pytest.raises(InputError, match="checksum"):
        read_parquet(path)


def test_a_file_in_the_place_of_a_folder_is_reported(tmp_path):
    (tmp_path / "home").write_text("")
    path = tmp_path / "home" / "data" / "toy.parquet"
    with pytest.raises(InputError) as error:
        write_parquet(random_dataset(), path)
    assert one_line(error) == f"cannot write {path}: Not a directory"
    assert names_in(tmp_path) == ["home"]


@contextlib.contextmanager
def small_files():
    """Let no file grow beyond 4 KiB, as on a disk that is full; only inside: pytest's own log must grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "toy.parquet"
    with pytest.raises(InputError) as error, small_files():
        write_parquet(random_dataset(height=100, width=100), path)
    assert one_line(error) == f"cannot write {path}: File too large"
    assert names_in(tmp_path) == []


def test_a_failed_write_leaves_the_older_file(tmp_path):
    path = tmp_path / "toy.parquet"
    write_parquet(random_dataset(), path)
    with pytest.raises(InputError), small_files():
        write_parquet(random_dataset(height=100, width=100), path)
    assert_same(read_parquet(path), random_dataset())
    assert names_in(tmp_path) == ["toy.parquet"]
