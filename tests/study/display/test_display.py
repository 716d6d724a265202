"""Tables, numbers, grids of images and figures, as people see them."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hdvae_platform.display.image_grid import PIXEL_SCALE, grid_png
from hdvae_platform.display.plotting import rendered
from hdvae_platform.display.text import brief, duration, markdown, number, signed, table


def pixels(png: bytes) -> np.ndarray:
    """The gray values of a PNG, one for each pixel of the images."""
    return np.asarray(Image.open(io.BytesIO(png)))[::PIXEL_SCALE, ::PIXEL_SCALE]


def test_a_grid_is_filled_row_by_row_with_ink_dark_on_white():
    images = torch.zeros(3, 2, 4)
    images[1, 0, 3] = 1.0
    images[2, 1, 0] = 0.5
    sheet = pixels(grid_png(images, columns=2))
    assert sheet.shape == (1 + 2 * 3, 1 + 2 * 5)
    assert sheet[1, 1 + 5 + 3] == 0, "second image: right in the first row"
    assert sheet[1 + 3 + 1, 1] == 128, "third image: the second row of the grid"
    dark = np.argwhere(sheet < 255)
    assert len(dark) == 2


def test_a_pixel_is_a_square_of_screen_pixels():
    picture = Image.open(io.BytesIO(grid_png(torch.ones(1, 1, 1), columns=1)))
    assert picture.size == (3 * PIXEL_SCALE, 3 * PIXEL_SCALE)
    assert np.asarray(picture)[PIXEL_SCALE : 2 * PIXEL_SCALE, PIXEL_SCALE : 2 * PIXEL_SCALE].max() == 0


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_becomes_a_file_of_its_kind(kind):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1], [0, 1])
    data = rendered(figure, kind)
    if kind == "png":
        assert Image.open(io.BytesIO(data)).size == (120, 120)
    else:
        assert ET.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
        assert b"<dc:date>" not in data, "the same figure gives the same file"


def test_a_table_without_rows_is_its_header():
    assert table(["arm", "elbo"], []) == "arm  elbo\n---  ----"


def test_columns_of_numbers_are_aligned_to_the_right():
    lines = table(["metric", "mean"], [["elbo", "-90.1"], ["kl", "—"], ["interval", "[1, 2]"]]).splitlines()
    assert [line[-6:] for line in lines] == ["  mean", "------", " -90.1", "     —", "[1, 2]"]


def test_a_column_in_which_one_cell_is_a_word_is_aligned_to_the_left():
    assert table(["a"], [["1"], ["one"]]) == "a\n---\n1\none"


def test_markdown_escapes_bars():
    assert markdown(["a", "b"], [["x|y", "1"]]).splitlines()[-1] == "| x\\|y | 1 |"


def test_numbers_and_durations():
    assert [number(value) for value in (math.inf, 99_999.994, 100_000.0, -0.004)] == [
        "inf",
        "99999.99",
        "1.00e+05",
        "-4.00e-03",
    ]
    assert (signed(0.0), signed(-2.0)) == ("+0.00", "-2.00")
    assert [duration(seconds) for seconds in (59.6, 3599.6, 0)] == ["1 min 0 s", "1 h 0 min", "0 s"]


def test_settings_in_short():
    assert brief([[0, 0.5]]) == "0.5 at 0"
    assert brief({"variables": 16, "scale": 1 / 3}) == '{"variables": 16, "scale": 0.3333}'
    assert brief(True) == "true"
