"""Grids of images as PNG files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

PIXEL_SCALE = 2
"""Screen pixels for each image pixel."""


def grid_png(images: Tensor, columns: int) -> bytes:
    """A grid of images as a PNG file, filled row by row; 1 is black and 0 is white.

    Args:
        images: values in [0, 1], (n, H, W).
        columns: images in a row.
    """
    n, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 1) + 1, columns * (w + 1) + 1), dtype=np.float32)
    for i, image in enumerate(images.cpu().float().numpy()):
        top, left = (i // columns) * (h + 1) + 1, (i % columns) * (w + 1) + 1
        sheet[top : top + h, left : left + w] = 1 - image
    picture = Image.fromarray((sheet * 255).round().astype(np.uint8))
    big = picture.resize((picture.width * PIXEL_SCALE, picture.height * PIXEL_SCALE), Image.Resampling.NEAREST)
    out = io.BytesIO()
    big.save(out, format="PNG")
    return out.getvalue()
