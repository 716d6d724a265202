"""The other figures of a report."""

from __future__ import annotations

import sys

import matplotlib as mpl
import pytest
from matplotlib.markers import CARETUPBASE

from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.report.drawing import RC, STYLES, Drawn, NotDrawn
from hdvae_platform.report.figures.bias_by_temperature import bias_by_temperature
from hdvae_platform.report.figures.bias_by_variables import bias_by_variables
from hdvae_platform.report.figures.common import NOT_VARIED
from hdvae_platform.report.figures.importance import importance
from hdvae_platform.report.figures.memory_size import memory_size
from hdvae_platform.report.figures.parallel_coordinates import _scale, parallel_coordinates
from hdvae_platform.report.figures.schedules import _course, schedules
from tests.study.helpers.report_contents import contents, widths


def made(monkeypatch, draw, found, *more):
    """The figure behind a drawing, laid out."""
    figures_made = []

    def rendered(*arguments):
        figures_made.append(arguments[4]().figure)
        figures_made[0].draw_without_rendering()
        return arguments

    with mpl.rc_context(RC), monkeypatch.context() as patch:
        patch.setattr(sys.modules[draw.__module__], "render", rendered)
        draw(found, *more)
    return figures_made[0]


def test_names_of_axes_are_within_the_schedules(monkeypatch):
    bits, rates = ([[[0, end], [50, 2.0]] for end in ends] for ends in ((0.5, 1.0), (0.1, 0.2)))
    space = {"training.freebits": {"choices": bits}, "training.memory_learning_rate": {"choices": rates}}
    sets = [dict(zip(space, both, strict=True)) for both in zip(bits, rates, strict=True)]
    figure = made(monkeypatch, schedules, contents(space, sets, [[{ELBO: -1.0}], [{ELBO: -2.0}]]))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "free bits λ, nats\nper layer",
        "learning rate of the\nmemories",
    ]
    for axes in figure.axes:
        extent = axes.yaxis.label.get_window_extent()
        assert axes.bbox.y0 - 10 <= extent.y0
        assert extent.y1 <= min(axes.bbox.y1 + 10, figure.bbox.y1)


def test_lines_pass_behind_the_words_of_parallel_coordinates(monkeypatch):
    space = {"model.width": {"choices": [8, 16]}, "training.freebits": {"choices": [0.5, 1.0]}}
    sets = [{"model.width": w, "training.freebits": b} for w, b in [(8, 1.0), (16, 0.5)]]
    found = contents(space, sets, [[{ELBO: -1.0}], [{ELBO: -2.0}]])
    (axes,) = made(monkeypatch, parallel_coordinates, found).axes
    highest = max(line.get_zorder() for line in axes.lines)
    assert len(axes.texts) == 9
    for text in axes.texts:
        assert text.get_zorder() > highest
        assert text.get_bbox_patch().get_alpha() in (None, 1)


def test_bias_by_variables_is_as_high_as_its_means_and_has_colours_of_its_own(monkeypatch):
    layer = {"variables": 4, "classes": 16}
    choices = [[layer], [{**layer, "variables": 8}], [layer, layer], [{**layer, "variables": 8}] * 2]
    numbers = [[{BIAS: 1.0 + i - 0.9}, {BIAS: 1.0 + i + 40.0}] for i in range(4)]
    found = contents({"model.layers": {"choices": choices}}, [{"model.layers": one} for one in choices], numbers)
    figure = made(monkeypatch, bias_by_variables, found)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low <= 0.1
    left, right = axes.get_xlim()
    assert 3 < left < 4
    assert 16 < right < 18
    assert 44 < high < 50, "every run is inside"
    assert not {line.get_color() for line in axes.lines} & {style.colour for style in STYLES}
    drawn = bias_by_variables(found)
    assert "its colour is not the colour of an arm" in drawn.caption


def test_schedules_are_drawn_where_something_moves_or_differs():
    one = contents({}, [{}], [[{ELBO: -1.0}]])
    drawn = schedules(one)
    assert isinstance(drawn, NotDrawn)
    assert "all schedules are constant: temperature τ 0.5; free bits λ, nats per layer 2; " in drawn.reason
    learned = {step: {"train/tau": 1 / step} for step in (1, 2, 4)}
    space = {"training.temperature": {"choices": [0.5, "learned", [[0, 0.8], [50, 0.1]]]}}
    sets = [{"training.temperature": value} for value in space["training.temperature"]["choices"]]
    two = contents(space, sets, [[{ELBO: -1.0}]] * 3, curves={1: learned})
    drawn = schedules(two)
    assert isinstance(drawn, Drawn)
    assert ["temperature τ", "1", "learned"] in [list(row) for row in drawn.rows]
    assert "Constant, and not drawn: temperature τ 0.5 (arm 0); free bits λ, nats per layer 2; " in drawn.caption
    steps, values = _course(two.arms[2].experiment.training.temperature, two.arms[2])
    assert values[steps.index(25)] == pytest.approx(0.45)
    assert (steps[0], steps[-1]) == (0, 100)
    assert _course("learned", two.arms[1]) == ([1, 2, 4], [1.0, 0.5, 0.25])


def test_bias_by_variables_takes_depth_apart():
    layer = {"variables": 4, "classes": 16}
    choices = [[layer], [{**layer, "variables": 8}], [layer, layer], [{**layer, "variables": 8}] * 2]
    sets = [{"model.layers": choice} for choice in choices]
    found = contents(
        {"model.layers": {"choices": choices}}, sets, [[{BIAS: 1.0 + i}, {BIAS: 1.5 + i}] for i in range(4)]
    )
    drawn = bias_by_variables(found)
    assert [row[:2] for row in drawn.rows] == [
        ["1 layer", "4"],
        ["1 layer", "8"],
        ["2 layers", "8"],
        ["2 layers", "16"],
    ]
    assert isinstance(bias_by_variables(widths(3)), NotDrawn)


def test_bias_by_variables_knows_what_presets_stand_for():
    names = [f"table4-L{depth}-N{n}" for depth in (1, 2) for n in (12, 24)]
    found = contents(
        {"preset": {"choices": names}}, [{"preset": name} for name in names], [[{BIAS: 1.0 + i}] for i in range(4)]
    )
    drawn = bias_by_variables(found)
    assert [row[:2] for row in drawn.rows] == [
        ["1 layer", "12"],
        ["1 layer", "24"],
        ["2 layers", "12"],
        ["2 layers", "24"],
    ]


def test_ranges_and_conditions_in_parallel_coordinates():
    space = {
        "training.freebits": {"low": 0.1, "high": 10.0, "log": True},
        "model.decoder": {"choices": ["free", "lipschitz"]},
        "model.decoder_scale": {"low": 1.0, "high": 20.0, "when": {"model.decoder": "lipschitz"}},
    }
    sets = [
        {"training.freebits": 1.0, "model.decoder": "free"},
        {"training.freebits": 10.0, "model.decoder": "lipschitz", "model.decoder_scale": 20.0},
    ]
    found = contents(space, sets, [[{ELBO: -1.0}], [{ELBO: -2.0}]], search={"method": "random", "trials": 2})
    drawn = parallel_coordinates(found)
    assert drawn.rows[0] == ["0", "1.0", "free", "—", "-1.00"]
    dimensions = found.study.space
    place, _ = _scale("training.freebits", dimensions["training.freebits"], found.arms)
    assert place(1.0) == pytest.approx(0.5)
    place, ticks = _scale("model.decoder_scale", dimensions["model.decoder_scale"], found.arms)
    assert (place(20.0), place(NOT_VARIED)) == (pytest.approx(0.9), 1.0)
    assert ticks[-1] == (1.0, "—")


def test_choices_that_look_alike_are_told_apart_and_none_is_one_of_them():
    layers = [[{"variables": 4, "classes": classes}] for classes in (16, 64, 256)]
    space = {"model.layers": {"choices": layers}, "training.gradient_clip": {"choices": [None, 1.0]}}
    sets = [{"model.layers": one, "training.gradient_clip": clip} for one in layers for clip in (None, 1.0)]
    found = contents(space, sets, [[{ELBO: -1.0 - i}] for i in range(6)])
    dimensions = found.study.space
    _, ticks = _scale("model.layers", dimensions["model.layers"], found.arms)
    assert len({text for _, text in ticks}) == 3
    place, ticks = _scale("training.gradient_clip", dimensions["training.gradient_clip"], found.arms)
    assert (place(None), ticks) == (0.0, [(0.0, "none"), (1.0, "1.0")])
    assert parallel_coordinates(found).rows[0][2] == "none"


def test_importance_is_drawn_in_order():
    drawn = importance(widths(2, importances={"b": 0.7, "a": 0.3}))
    assert [row[0] for row in drawn.rows] == ["b", "a"]
    assert drawn.header == ["setting", "share"]


def test_memory_size_shows_intervals_and_only_a_lower_bound_where_the_images_show_no_more(monkeypatch):
    space = {"model.layers.0.classes": {"choices": [16, 256, 65_536]}, "model.reads": {"choices": ["dense", "race"]}}
    sets = [
        {"model.layers.0.classes": classes, "model.reads": reads}
        for classes in (16, 256, 65_536)
        for reads in ("dense", "race")
    ]
    coverage = {16: (0.9, 0.8, 0.95), 256: (0.5, 0.4, 0.6), 65_536: (0.3, 0.1, 1.0)}
    numbers = [
        [
            {ELBO: -90.0 - seed, BIAS: 1.0 + seed}
            | {
                f"valid/coverage{limit}/layer_1": value
                for limit, value in zip(("", "_low", "_high"), coverage[one["model.layers.0.classes"]], strict=True)
            }
            for seed in range(2)
        ]
        for one in sets
    ]
    found = contents(space, sets, numbers)
    drawn = memory_size(found)
    assert [list(row) for row in drawn.rows[:3]] == [
        ["reads dense", "16", "0", "-90.5 [-96.9, -84.1]", "1.5 [-4.9, 7.9]", "0.90 [0.80, 0.95]"],
        ["reads dense", "256", "2", "-90.5 [-96.9, -84.1]", "1.5 [-4.9, 7.9]", "0.50 [0.40, 0.60]"],
        ["reads dense", "65536", "4", "-90.5 [-96.9, -84.1]", "1.5 [-4.9, 7.9]", "at least 0.10"],
    ]
    assert [row[0] for row in drawn.rows[3:]] == ["reads race"] * 3
    elbo, bias, share = made(monkeypatch, memory_size, found).axes
    assert [axes.get_ylabel().replace("\n", " ") for axes in (elbo, bias, share)] == [
        "ELBO, nats per image",
        "relaxation bias, nats per image",
        "coverage, share of slots, log scale",
    ]
    assert share.get_xscale() == "log"
    assert "layer 1" in share.get_xlabel()
    assert [tick.get_text() for tick in share.get_xticklabels()] == ["2⁴", "2⁸", "2¹⁶"]
    for axes, inside in ((elbo, -90.5), (bias, 1.5), (share, 0.1)):
        low, high = axes.get_ylim()
        assert low < inside < high
    marks = {float(line.get_ydata()[0]) for line in share.lines if line.get_marker() == CARETUPBASE}
    assert marks == {0.1}
    assert isinstance(memory_size(widths(3)), NotDrawn)


def test_the_bias_against_temperature_stays_inside_its_axes(monkeypatch):
    taus = {0.1: "valid/relaxation_bias@tau=0.1", 1.0: "valid/relaxation_bias@tau=1"}
    numbers = [[{ELBO: -1.0, **{name: tau * (1 + 9 * seed) for tau, name in taus.items()}} for seed in range(3)]]
    (axes,) = made(monkeypatch, bias_by_temperature, contents({}, [{}], numbers)).axes
    low, high = axes.get_ylim()
    drawn = [value for line in axes.lines for value in line.get_ydata()]
    assert (min(drawn), max(drawn)) == (pytest.approx(0.1), pytest.approx(19.0)), "three seeds are dots, without a bar"
    assert -5 < low < 0.1
    assert 19 < high < 25
