"""Data sets: packing, checksums, Parquet files, and a user's own images."""

import contextlib
import resource
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdvae.data.dataset import SPLITS, Dataset, load, parquet_path, read_own, read_parquet, write_parquet
from hdvae.errors import InputError

SIZES = {"train": 20, "valid": 5, "test": 4}


def random_images(seed=0, height=5, width=7, top=2):
    rng = np.random.default_rng(seed)
    return {split: rng.integers(0, top, (n, height, width), dtype=np.uint8) for split, n in SIZES.items()}


def random_dataset(name="toy", **kwargs):
    labels = {split: np.arange(n) - 3 for split, n in SIZES.items()}
    return Dataset.from_images(name, random_images(**kwargs), labels, {"build": "random", "seed": [0, None]})


def assert_same(one, other):
    assert (one.name, one.height, one.width) == (other.name, other.height, other.width)
    assert one.provenance == other.provenance
    assert one.checksum == other.checksum
    for split in SPLITS:
        np.testing.assert_array_equal(one.images(split), other.images(split))
    assert set(one.labels) == set(other.labels)
    for split in one.labels:
        assert one.labels[split].dtype == other.labels[split].dtype == np.int16
        np.testing.assert_array_equal(one.labels[split], other.labels[split])


def one_line(error):
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def names_in(folder):
    return [path.name for path in folder.iterdir()]


# --- The data set itself ----------------------------------------------------------------------------


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_images_of_any_size_survive_packing(height, width, seed):
    images = random_images(seed, height, width)
    dataset = Dataset.from_images("toy", images)
    for split in SPLITS:
        assert dataset.packed[split].shape == (SIZES[split], -(-height * width // 8))
        unpacked = dataset.images(split)
        assert unpacked.dtype == np.uint8
        np.testing.assert_array_equal(unpacked, images[split])
        assert dataset.size(split) == SIZES[split]


def test_rows_are_packed_with_the_first_pixel_in_the_highest_bit():
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, 0, 0] = image[0, 2, 2] = 1
    dataset = Dataset.from_images("toy", dict.fromkeys(SPLITS, image))
    assert dataset.packed["train"].tolist() == [[0b10000000, 0b10000000]]


def test_checksum_depends_on_content_alone():
    images = random_images()
    checksum = Dataset.from_images("toy", images).checksum
    assert Dataset.from_images("other", images, {"test": np.arange(4)}, {"a": 1}).checksum == checksum
    assert Dataset.from_images("toy", dict(reversed(images.items()))).checksum == checksum

    images["test"][0, 0, 0] ^= 1
    assert Dataset.from_images("toy", images).checksum != checksum


def test_checksum_tells_shapes_and_splits_apart():
    rows = np.zeros((6, 24), np.uint8)
    wide = {split: rows.reshape(6, 4, 6) for split in SPLITS}
    high = {split: rows.reshape(6, 6, 4) for split in SPLITS}
    moved = {"train": wide["train"][:5], "valid": np.zeros((7, 4, 6), np.uint8), "test": wide["test"]}
    checksums = {Dataset.from_images("toy", images).checksum for images in (wide, high, moved)}
    assert len(checksums) == 3


def test_checksum_is_pinned():
    rows = np.arange(6, dtype=np.uint8).reshape(3, 2)
    dataset = Dataset("toy", 4, 4, dict.fromkeys(SPLITS, rows), {}, {})
    # The sha256 of the text and bytes that the docstring promises, by another program.
    assert dataset.checksum == "8ca9e87ebcd306c824a3fc8334c0f697d3649d3af969c144b1f0eb1d87dbf4df"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ({"train": np.full((2, 2, 2), 2, np.uint8)}, {}),
        ({"train": np.zeros((2, 4), np.uint8)}, {}),
        ({"valid": np.zeros((2, 2, 3), np.uint8)}, {}),
        ({}, {"train": np.arange(3)}),
        ({}, {"train": np.array([0, 40000])}),
        ({}, {"train": np.array([0.5, 1])}),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels):
    good = dict.fromkeys(SPLITS, np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"train|valid"):
        Dataset.from_images("toy", good | images, labels)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="not uint8"):
        replace(random_dataset(), height=50)
    with pytest.raises(ValueError, match="splits are"):
        replace(random_dataset(), packed={})


# --- Parquet ----------------------------------------------------------------------------------------


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
    assert one_line(error).startswith(f"{path} is damaged or no data set")
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


# --- A user's own images ----------------------------------------------------------------------------


def test_own_binary_images(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", **random_images(), extra=np.arange(3))
    dataset = read_own(tmp_path / "mine.npz", "none")
    assert (dataset.name, dataset.height, dataset.width) == ("mine", 5, 7)
    assert dataset.provenance == {"path": str(tmp_path / "mine.npz"), "binarization": "none"}
    for split, images in random_images().items():
        np.testing.assert_array_equal(dataset.images(split), images)


def test_own_gray_images_with_threshold(tmp_path):
    gray = random_images(top=256)
    gray["train"][0, 0, :3] = 127, 128, 255
    np.savez(tmp_path / "mine.npz", **gray)
    dataset = read_own(tmp_path / "mine.npz", "threshold")
    assert dataset.images("train")[0, 0, :3].tolist() == [0, 1, 1]
    for split in SPLITS:
        np.testing.assert_array_equal(dataset.images(split), gray[split] > 127)


def test_own_gray_images_with_bernoulli(tmp_path):
    gray = random_images(top=256)
    gray["train"] = np.tile(gray["train"], (500, 1, 1))  # More rows than are drawn at a time.
    gray["train"][:, 0, 0], gray["train"][:, 0, 1] = 0, 255
    np.savez(tmp_path / "mine.npz", **gray)
    dataset = read_own(tmp_path / "mine.npz", "bernoulli")
    random = np.random.RandomState(777)
    for split in SPLITS:
        expected = random.random_sample(gray[split].shape) < gray[split] / 255
        np.testing.assert_array_equal(dataset.images(split), expected)
    assert not dataset.images("train")[:, 0, 0].any()
    assert dataset.images("train")[:, 0, 1].all()


def save(path, **changes):
    arrays = random_images() | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def save_pickled(path):
    save(path, valid=np.array([{}, {}], object))


def save_truncated(path):
    save(path)
    path.write_bytes(path.read_bytes()[:-50])


def save_damaged(path):
    save(path)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def save_bare(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2, 2), np.uint8))


def save_other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


ZEROS = np.zeros((3, 5, 7))
FAULTS = {
    "missing file": (lambda path: None, "none", "does not exist"),
    "folder": (lambda path: path.mkdir(), "none", "cannot be read as an .npz"),
    "empty file": (lambda path: path.write_bytes(b""), "none", "cannot be read as an .npz"),
    "text": (lambda path: path.write_text("train"), "none", "cannot be read as an .npz"),
    "truncated": (save_truncated, "none", "cannot be read as an .npz"),
    "damaged": (save_damaged, "none", "cannot be read as an .npz"),
    "pickled": (save_pickled, "none", "cannot be read as an .npz"),
    "bare array": (save_bare, "none", "one bare array: save train, valid and test"),
    "other zip": (save_other_zip, "none", "no array 'train'; known: readme.txt"),
    "misspelt": (
        lambda path: save(path, valid=None, vaild=ZEROS.astype(np.uint8)),
        "none",
        "no array 'valid'; did you mean 'vaild'?",
    ),
    "dtype": (lambda path: save(path, test=ZEROS), "none", "array 'test' is float64, not uint8"),
    "bool": (lambda path: save(path, test=ZEROS > 0), "none", "array 'test' is bool, not uint8"),
    "rank": (
        lambda path: save(path, valid=np.zeros((3, 35), np.uint8)),
        "none",
        "array 'valid' has shape [3, 35], not [n, height, width]",
    ),
    "size": (
        lambda path: save(path, test=np.zeros((3, 7, 5), np.uint8)),
        "none",
        "images of 'test' are 7x5, those of 'train' 5x7",
    ),
    "empty": (lambda path: save(path, valid=np.zeros((0, 5, 7), np.uint8)), "none", "'valid' is empty"),
    "gray with none": (
        lambda path: save(path, valid=np.full((3, 5, 7), 255, np.uint8)),
        "none",
        "array 'valid' has values up to 255, not only 0 and 1: for gray images use binarization 'threshold'",
    ),
    "binary with threshold": (save, "threshold", "binary already: use binarization 'none'"),
    "binary with bernoulli": (save, "bernoulli", "binary already: use binarization 'none'"),
    "binarization": (save, "treshold", "unknown binarization 'treshold'; did you mean 'threshold'?"),
}


@pytest.mark.parametrize(("write", "binarization", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults_of_own_files(tmp_path, write, binarization, expected):
    path = tmp_path / "mine.npz"
    write(path)
    with pytest.raises(InputError) as error:
        read_own(path, binarization)
    assert expected in one_line(error)
    assert "binarization '" in str(error.value) or str(path) in str(error.value)


# --- Loading for a study ----------------------------------------------------------------------------


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
    assert one_line(error) == (f"data set 'toy' is not fetched (looked in {path}): run `hdvae data fetch toy`")


def test_load_of_another_data_set_under_the_name(tmp_path):
    write_parquet(random_dataset("other"), parquet_path(tmp_path, "toy"))
    with pytest.raises(InputError, match="holds data set 'other', not 'toy'"):
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
