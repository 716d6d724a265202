"""Binarisation of gray images: by a threshold, or by one draw with a fixed seed, so that all runs see the same bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hdvae.data.dataset import SPLITS, Images

_THRESHOLD = 128
_WHITE = 255
_DRAW_SEED = 777
_DRAW_ROWS = 4096


def threshold(gray: Mapping[str, Images]) -> dict[str, Images]:
    """Binarise gray images 0 … 255, uint8 [n, H, W] per split: values from 128 on become 1."""
    return {split: (images >= _THRESHOLD).astype(np.uint8) for split, images in gray.items()}


def bernoulli(gray: Mapping[str, npt.NDArray[Any]], white: float = _WHITE) -> dict[str, Images]:
    """Binarise gray images by one draw with a fixed seed: a pixel becomes 1 with probability gray/white.

    Args:
        gray: for each of train, valid and test, numbers [n, H, W] from 0 to `white`.
        white: the gray value that always becomes 1.

    Returns:
        For each split, uint8 [n, H, W]. The splits are drawn in this order from one random state.
    """
    random = np.random.RandomState(_DRAW_SEED)
    return {split: _draw(random, gray[split], white) for split in SPLITS}


def _draw(random: np.random.RandomState, gray: npt.NDArray[Any], white: float) -> Images:
    """Draw one split in blocks of rows, which gives the same numbers as one draw and saves memory."""
    drawn = np.empty(gray.shape, np.uint8)
    for start in range(0, len(gray), _DRAW_ROWS):
        part = gray[start : start + _DRAW_ROWS]
        drawn[start : start + _DRAW_ROWS] = random.random_sample(part.shape) < part / white
    return drawn


BINARIZERS: Mapping[str, Callable[[dict[str, Images]], dict[str, Images]]] = {
    "none": lambda images: images,
    "threshold": threshold,
    "bernoulli": bernoulli,
}
"""The function of each value of `data.binarization`: arrays [n, H, W] per split → images of 0 and 1."""
