"""The figures of metrics against settings."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest

from hdvae.errors import InputError
from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.report.arm_report import PrunedRun
from hdvae_platform.report.drawing import NotDrawn
from hdvae_platform.report.figures.metric_by_setting import RUNS_IN_BIN, Setting, metric_by_setting
from hdvae_platform.report.figures.plots import asked_plots, usual_plots
from tests.study.helpers.report_contents import biased, contents
from tests.study.report.test_figures import made

BITS, TAU = "training.freebits", "training.temperature"


def grid(seeds=4):
    """Free bits on a geometric grid × two temperatures."""
    space = {BITS: {"choices": [0.25, 1.0, 4.0]}, TAU: {"choices": [0.5, 1.0]}}
    sets = [{BITS: bits, TAU: tau} for bits in (0.25, 1.0, 4.0) for tau in (0.5, 1.0)]
    numbers = [[biased(-100.0 - i - s * s, 0.1 + s) for s in range(seeds)] for i in range(6)]
    return contents(space, sets, numbers)


def lines_of(axes):
    """The lines of several points; not dots."""
    return [line for line in axes.lines if line.get_linestyle() != "None" and len(line.get_xdata()) > 1]


def test_a_grid_has_a_line_of_medians_for_each_combination_of_the_others(monkeypatch):
    found = grid()
    figure = made(monkeypatch, metric_by_setting, found, [ELBO, BIAS], Setting(BITS, found.study.space[BITS], "λ"))
    elbo, bias = figure.axes
    assert bias.get_xscale() == "log"
    assert bias.get_xlabel() == "training.freebits (λ), log scale"
    assert [tick.get_text() for tick in bias.get_xticklabels()] == ["0.25", "1.0", "4.0"]
    medians = [line for line in lines_of(elbo) if len(set(line.get_xdata())) == 3]
    first = [statistics.median(-100.0 - i - s * s for s in range(4)) for i in (0, 2, 4)]
    assert [list(line.get_ydata()) for line in medians] == [first, [value - 1 for value in first]]
    bars = [line for line in lines_of(elbo) if len(set(line.get_xdata())) == 1 and line.get_linewidth() == 4]
    assert len(bars) == 6
    assert list(bars[0].get_ydata()) == list(np.quantile([-100.0 - s * s for s in range(4)], [0.25, 0.75]))
    few = made(monkeypatch, metric_by_setting, grid(3), [ELBO], Setting(BITS, found.study.space[BITS]))
    assert not [line for line in lines_of(few.axes[0]) if line.get_linewidth() == 4], "three runs are dots"


def test_a_range_has_its_scale_its_runs_and_medians_of_neighbours(monkeypatch):
    bits = np.geomspace(0.1, 8.0, 3 * RUNS_IN_BIN)
    space = {BITS: {"low": 0.1, "high": 8.0, "log": True}, "model.width": {"low": 1, "high": 99}}
    sets = [{BITS: float(one), "model.width": i + 1} for i, one in enumerate(bits)]
    found = contents(
        space, sets, [[{ELBO: -float(i)}] for i in range(len(bits))], search={"method": "tpe", "trials": 99}
    )
    (axes,) = made(monkeypatch, metric_by_setting, found, [ELBO], Setting(BITS, found.study.space[BITS])).axes
    assert axes.get_xscale() == "log"
    (line,) = lines_of(axes)
    assert list(line.get_ydata()) == [-1.5, -5.5, -9.5]
    middle = np.exp(np.log(bits).reshape(3, RUNS_IN_BIN).mean(1))
    assert list(line.get_xdata()) == pytest.approx(list(middle))


def test_pruned_runs_stand_at_the_value_they_came_to(monkeypatch):
    curve = {50: {ELBO: -105.0}, 100: {ELBO: -104.0}}
    far = {50: {ELBO: -9000.0}}
    found = replace(grid(), pruned=[PrunedRun({BITS: 1.0, TAU: 0.5}, curve), PrunedRun({BITS: 4.0, TAU: 0.5}, far)])
    (axes,) = made(monkeypatch, metric_by_setting, found, [ELBO], Setting(BITS, found.study.space[BITS])).axes
    crosses = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "x"]
    low, _ = axes.get_ylim()
    assert crosses == [(1.0, -104.0), (4.0, low)]
    assert low > -200, "one far away does not press the others together"
    assert "Crosses: pruned runs" in metric_by_setting(found, [ELBO], Setting(BITS, found.study.space[BITS])).caption


def test_schedules_are_words_on_the_axis(monkeypatch):
    choices = [0.5, [[0, 0.8], [50, 0.1]], {"start": 0.8, "end": 0.2, "steps": 40, "shape": "cosine"}]
    found = contents({TAU: {"choices": choices}}, [{TAU: one} for one in choices], [[{ELBO: -1.0}]] * 3)
    (axes,) = made(monkeypatch, metric_by_setting, found, [ELBO], Setting(TAU, found.study.space[TAU])).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "0.8→0.1 at 50", "0.8→0.2 over 40, cosine"]


def test_none_is_a_value_and_a_setting_that_does_not_apply_is_not(monkeypatch):
    space = {"model.latent": {"choices": ["normal", "categorical"]}}
    space["training.gradient_clip"] = {"choices": [None, 1.0], "when": {"model.latent": "categorical"}}
    sets = [
        {"model.latent": "normal"},
        *({"model.latent": "categorical", "training.gradient_clip": c} for c in (None, 1.0)),
    ]
    found = contents(space, sets, [[{ELBO: -1.0}]] * 3)
    clip = Setting("training.gradient_clip", found.study.space["training.gradient_clip"])
    (axes,) = made(monkeypatch, metric_by_setting, found, [ELBO], clip).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["none", "1.0"]


def test_what_varies_is_drawn_and_one_value_is_not():
    found = grid()
    assert [one.title for one in usual_plots(found)] == [
        "elbo and relaxation_bias against training.temperature (τ)",
        "elbo and relaxation_bias against training.freebits (λ, nats)",
    ]
    lone = contents({BITS: {"choices": [1.0, 2.0]}}, [{BITS: 1.0}], [[{ELBO: -1.0}]])
    assert all(isinstance(one, NotDrawn) for one in usual_plots(lone))


def test_figures_that_a_user_asks_for():
    found = grid()
    (one,) = asked_plots(found, ["elbo:freebits", "elbo:freebits"])
    assert (one.name, one.header) == ("elbo_by_training_freebits", ["training.freebits (λ, nats)", "arm", ELBO])
    for wrong, said in (
        ("elbo", "write --plot METRIC:SETTING"),
        ("elbos:freebits", "no run has the metric valid/elbos; did you mean 'elbo'?"),
        ("elbo:freebit", "did you mean 'freebits'?"),
    ):
        with pytest.raises(InputError) as fault:
            asked_plots(found, [wrong])
        assert said in str(fault.value)
