"""Images that stand in two splits: what a model saw in training is no test of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hdvae.data.dataset import SPLITS, Dataset


@dataclass(frozen=True)
class Overlap:
    """The images of one split that another split has too, pixel by pixel as they are stored, i.e. binary.

    Attributes:
        split: the split whose images are counted.
        also_in: the split that has them too.
        count: the number of such images in `split`; an image that stands there twice counts twice.
        size: the number of images in `split`.
        example: the index of the first such image in `split`, and of one equal to it in `also_in`.
    """

    split: str
    also_in: str
    count: int
    size: int
    example: tuple[int, int]

    def __str__(self) -> str:
        """The overlap in words.

        >>> str(Overlap("test", "train", 11, 2307, (35, 17)))
        '11 of 2307 test images are also in train (test 35 = train 17)'
        """
        here, there = self.example
        are = "is" if self.count == 1 else "are"
        equal = f"{self.split} {here} = {self.also_in} {there}"
        return f"{self.count} of {self.size} {self.split} images {are} also in {self.also_in} ({equal})"


def overlaps(dataset: Dataset) -> list[Overlap]:
    """The pairs of splits that share images: test and valid with train, then test with valid."""
    return list(_overlaps(dataset))


def overlap_in_words(dataset: Dataset) -> str:
    """All overlaps of a data set in one line; empty if there are none."""
    return "; ".join(map(str, overlaps(dataset)))


def _overlaps(dataset: Dataset) -> Iterator[Overlap]:
    rows = {split: [row.tobytes() for row in dataset.packed[split]] for split in SPLITS}
    for also_in, split in (("train", "valid"), ("train", "test"), ("valid", "test")):
        where = {row: index for index, row in enumerate(rows[also_in])}
        shared = [index for index, row in enumerate(rows[split]) if row in where]
        if shared:
            example = shared[0], where[rows[split][shared[0]]]
            yield Overlap(split, also_in, len(shared), len(rows[split]), example)
