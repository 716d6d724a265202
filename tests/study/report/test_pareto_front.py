"""The figure of ELBO against bias."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hdvae_platform.analysis.inference import interval
from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.report.arm_report import MAX_HIGHLIGHTED
from hdvae_platform.report.figures.pareto_front import _cross, label_offsets, pareto_front
from hdvae_platform.report.page import html
from tests.study.helpers.report_contents import PLAIN, biased, contents, drawn_again, widths
from tests.study.report.test_figures import made


def test_bars_of_the_pareto_front_are_over_seeds():
    """And none of the arm with three seeds, whose interval would show little but their number."""
    sets = [{"model.width": 8}, {"model.width": 16}]
    numbers = [
        [{ELBO: -100.0 - 10 * s, BIAS: 1.0 + s} for s in range(4)],
        [{ELBO: -90.0 - s, BIAS: 1.0} for s in range(3)],
    ]
    again = drawn_again(sets, numbers)
    axes = Figure().subplots()
    for arm in again.arms:
        _cross(axes, arm, BIAS, ELBO)
    drawn = [sorted(line.get_xdata()) for line in axes.lines]
    both = interval([1.0, 2.0, 3.0, 4.0])
    assert drawn == [[both.low, both.high], [2.5, 2.5]]


def test_the_pareto_front_says_only_what_its_means_say():
    """An arm of the front that is not among the best by ELBO has its number; ties beat nobody; 0 may be exact."""
    found = widths(20)
    drawn = pareto_front(found)
    assert all(row[3] == "yes" for row in drawn.rows), "each has more bias than the one before, and more ELBO"
    labelled = re.findall(r"<!-- (\d+) -->", drawn.svg.decode())
    assert {"0", "1", "19"} <= set(labelled)
    sets = [{"model.latent": "normal", "model.width": i} for i in (1, 2)]
    space = {"model.latent": {"choices": ["normal", "categorical"]}, "model.width": {"choices": [1, 2]}}
    tied = pareto_front(contents(space, sets, [[biased(-100.0, 0.0)]] * 2))
    assert "front of the means, arms 0, 1: no other arm is better" in tied.caption
    assert "The bias is 0 by definition where variables are not relaxed: arms 0, 1." in tied.caption


def test_of_many_arms_the_best_are_highlighted():
    found = widths(20)
    assert [arm.place for arm in found.highlighted] == list(range(20 - MAX_HIGHLIGHTED, 20))
    drawn = pareto_front(found)
    assert len(drawn.rows) == 20
    assert f"Only the {MAX_HIGHLIGHTED} best of 20 arms have a colour." in drawn.caption
    ET.fromstring(drawn.svg)


def test_arms_without_a_complete_run_are_not_counted_among_the_best():
    """A search with a pruner: many arms, few complete."""
    sets = [{"model.width": i + 1} for i in range(MAX_HIGHLIGHTED + 3)]
    numbers = [[{ELBO: -1.0, BIAS: 0.1}], [{ELBO: -2.0, BIAS: 0.2}], *([[]] * (MAX_HIGHLIGHTED + 1))]
    space = {"model.width": {"low": 1, "high": 99}}
    found = contents(space, sets, numbers, search={"method": "random", "trials": 9})
    assert "best of" not in pareto_front(found).caption


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=2, max_size=3))
def test_labels_of_points_that_are_close_stand_apart(points):
    """Two digits of 9 points are some 10 wide and 7 high."""
    chosen = label_offsets({str(i): point for i, point in enumerate(points)}, (-90, -90, 90, 90))
    labels = [(x + chosen[str(key)][0], y + chosen[str(key)][1]) for key, (x, y) in enumerate(points)]
    assert all(math.dist(one, other) > 7 for one, other in itertools.combinations(labels, 2))


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=1, max_size=7))
def test_labels_stand_inside_the_panel(points):
    """Also of a point on the axis, where arms without a bias are."""
    chosen = label_offsets({str(i): point for i, point in enumerate(points)}, (0, 0, 60, 60))
    for key, (x, y) in enumerate(points):
        assert 7 <= x + chosen[str(key)][0] <= 53
        assert 7 <= y + chosen[str(key)][1] <= 53


def test_the_front_of_a_search_is_in_its_own_metrics_and_has_colours():
    """Its members come first where there are more arms than colours."""
    sets = [{"model.width": i + 1} for i in range(MAX_HIGHLIGHTED + 4)]
    numbers = [[biased(-100.0, 0.5)], [biased(-120.0, 0.1)], *([biased(-101.0 - i, 1.0)] for i in range(len(sets) - 2))]
    search = {"method": "random", "trials": 99, "also": {BIAS: "minimize"}}
    found = contents({"model.width": {"low": 1, "high": 99}}, sets, numbers, search=search)
    assert {"0", "1"} <= {arm.name for arm in found.highlighted}, "trial 1 has the worst ELBO of all"
    drawn = pareto_front(found)
    assert [row[0] for row in drawn.rows if row[-1] == "yes"] == ["0", "1"]
    assert "arms 1, 0: no other arm is better in one metric and as good in the other." in drawn.caption


def test_an_infeasible_trial_is_hollow_never_on_the_front_and_coloured_last(monkeypatch):
    sets = [{"model.width": i + 1} for i in range(MAX_HIGHLIGHTED + 1)]
    numbers = [[biased(-100.0 + i, 0.1 + 0.1 * i)] for i in range(len(sets))]
    search = {"method": "random", "trials": 99, "constraints": {BIAS: {"at_most": 0.75}}}
    found = contents({"model.width": {"low": 1, "high": 99}}, sets, numbers, search=search, feasible=lambda i: i < 7)
    assert [arm.name for arm in found.highlighted] == list("0123456"), "trial 7 has the best ELBO, and is infeasible"
    assert found.best == ["6"]
    drawn = pareto_front(found)
    assert [row[0] for row in drawn.rows if row[-1] == "yes"] == list("0123456")
    assert "Hollow: infeasible trials." in drawn.caption
    assert "Hollow" not in pareto_front(widths(3)).caption
    (axes,) = made(monkeypatch, pareto_front, found).axes
    hollow = [line.get_xdata()[0] for line in axes.lines if line.get_fillstyle() == "none"]
    assert hollow == [pytest.approx(0.8)]
    page = html(found, [])
    search["constraints"] = {BIAS: {"at_most": 0.01}}
    none = contents({"model.width": {"low": 1, "high": 99}}, sets, numbers, search=search, feasible=lambda _: False)
    assert "There is none: the study has no feasible trial: none has valid/relaxation_bias at most 0.01." in html(
        none, []
    )
    assert "valid/relaxation_bias, at most 0.75" in page[page.index('id="best"') : page.index('id="experiment"')]


def test_names_with_dollars_and_markup_are_drawn_as_they_are():
    space = {"data.path": {"choices": ["$x^{", "<b>&--></b>"]}}
    plain = {"data": {"path": "a"}, **{key: PLAIN["experiment"][key] for key in ("model", "training")}}
    study = {**PLAIN, "experiment": plain}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLAIN, "experiment", study["experiment"])
        sets = [{"data.path": choice} for choice in space["data.path"]["choices"]]
        found = contents(space, sets, [[{ELBO: -1.0, BIAS: 0.1}], [{ELBO: -2.0, BIAS: 0.2}]])
    drawn = pareto_front(found)
    ET.fromstring(drawn.svg)
    ET.fromstring(f"<div xmlns:xlink='http://www.w3.org/1999/xlink'>{drawn.inline}</div>")
    assert "<b>" not in drawn.inline
    assert "1. path &lt;b&gt;&amp;--&gt;&lt;/b&gt;" in html(found, [drawn])
