"""Loading the data set that an experiment asks for."""

import numpy as np
import pytest

from hdvae.data.loading import load
from hdvae.data.npz import read_own
from hdvae.data.parquet import parquet_path, write_parquet
from hdvae.errors import InputError
from tests.hdvae.data.samples import assert_same, one_line, random_dataset, random_images


def test_load_by_name(tmp_path):
    write_parquet(random_dataset(), parquet_path(tmp_path, "toy"))
    assert parquet_path(tmp_path, "toy") == tmp_path / "data" / "toy.parquet"
    assert_same(load(tmp_path, "toy", None), random_dataset())


def test_load_by_path(tmp_path):
    np.savez(tmp_path / "mine.npz", **random_images(top=256))
    dataset = load(tmp_path, None, str(tmp_path / "mine.npz"), "threshold")
    assert dataset.checksum == read_own(tmp_path / "mine.npz", "threshold").checksum


def test_load_of_what_is_not_fetched(tmp_path):
    with pytest.raises(InputError) as error:
        load(tmp_path, "toy", None)
    path = tmp_path / "data" / "toy.parquet"
    assert one_line(error) == (f"data set 'toy' is not fetched (looked for {path}): run `hdvae data fetch toy`")


def test_load_of_another_data_set_under_the_name(tmp_path):
    write_parquet(random_dataset("other"), parquet_path(tmp_path, "toy"))
    with pytest.raises(InputError, match="contains data set 'other', not 'toy'"):
        load(tmp_path, "toy", None)


@pytest.mark.parametrize(("name", "path"), [(None, None), ("toy", "mine.npz")])
def test_load_takes_exactly_one_of_name_and_path(tmp_path, name, path):
    with pytest.raises(InputError, match="give either"):
        load(tmp_path, name, path)


def test_load_binarizes_no_fetched_data_set(tmp_path):
    with pytest.raises(InputError, match="'toy' is binary already"):
        load(tmp_path, "toy", None, "threshold")


def test_a_path_that_cannot_be_looked_at_is_reported(tmp_path):
    with pytest.raises(InputError) as error:
        load(tmp_path / ("x" * 300), "toy", None)
    assert one_line(error).endswith("File name too long")
