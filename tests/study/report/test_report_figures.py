"""What a report says of runs with known numbers, without a study behind them."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hdvae.config import parse
from hdvae_platform.analysis.arms import label
from hdvae_platform.analysis.comparison import Arm, Confirmation, Interval, interval
from hdvae_platform.analysis.differences import ARMS
from hdvae_platform.analysis.inference import bars
from hdvae_platform.analysis.verdicts import verdicts
from hdvae_platform.report import figures, settings
from hdvae_platform.report.contents import SHOWN, ArmReport, Contents, best_arms
from hdvae_platform.report.drawing import RC, STYLES, Drawn, NotDrawn
from hdvae_platform.report.page import html
from hdvae_platform.running.status import StudyStatus
from hdvae_platform.store.places import Places
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import TrackedRun

BIAS, ELBO = "valid/relaxation_bias", "valid/elbo"
PLAIN = {
    "name": "made",
    "claim": "Made up.",
    "experiment": {
        "data": {"name": "mnist5k"},
        "model": {"layers": [{"variables": 4, "classes": 16}]},
        "training": {"steps": 100, "temperature": 0.5},
    },
}


def contents(space, sets, numbers, *, curves=None, importances="not asked", search=None, expect=()):
    """A report's contents: parameter sets, and for each its metrics by seed."""
    plain = {**PLAIN, "space": space, "search": search or {"method": "grid"}, "expect": list(expect)}
    study = parse(Study, plain, "made")
    arms = []
    for i, (params, seeds) in enumerate(zip(sets, numbers, strict=True)):
        tags = {
            "hdvae.study": "made",
            "hdvae.trial": str(i),
            "hdvae.arm": json.dumps(params),
            "hdvae.sources": "0" * 64,
            "hdvae.version": "1",
        }
        runs = [
            TrackedRun(f"run-{i}-{seed}", "FINISHED", {**tags, "hdvae.seed": str(seed)}, {}, metrics, 60.0)
            for seed, metrics in enumerate(seeds)
        ]
        arm = ArmReport(i + 1, label(params), Arm(params, runs), study.experiment_at(params))
        arm.curves = {run.run_id: (curves or {}).get(i, {}) for run in runs}
        arms.append(arm)
    kept = best_arms(arms, study)
    status = StudyStatus("made", "Made up.", "finished", 0, [])
    for arm in arms:
        for run, seed in zip(arm.arm.runs, arm.arm.seeds, strict=True):
            row = {"number": arm.number - 1, "seed": seed, "state": "COMPLETE", "kind": "search", "error": None}
            status.trials.append({**row, "params": arm.arm.arm, "run_id": run.run_id})
    status = replace(status, total=len(status.trials))
    tracked = {run.run_id: run for arm in kept for run in arm.arm.runs}
    return Contents(
        study=study,
        places=Places(Path("/home"), "sqlite://", "http://me:secret@host:5000", None, "/storage"),
        status=status,
        arms=kept,
        arms_in_all=len(arms),
        not_begun=0,
        sent=0,
        unsent=0,
        trials={arm.number - 1: arm.number for arm in kept},
        tracked=tracked,
        pages={run_id: f"http://host:5000/#/experiments/1/runs/{run_id}" for run_id in tracked},
        parent=None,
        confirmed=[],
        verdicts=verdicts(study.expect, [arm.arm for arm in arms]),
        restated=None,
        importances=importances,
        images=None,
    )


def biased(elbo, bias):
    """The metrics of a run with a bias."""
    return {ELBO: elbo, "valid/surrogate_elbo": elbo + bias, BIAS: bias}


def widths(count, seeds=2, **more):
    """As many arms, each better than the one before, and with more bias."""
    sets = [{"model.width": i + 1} for i in range(count)]
    numbers = [[biased(-100.0 + i + 0.01 * s * i, 0.1 * i + 0.001 * s) for s in range(seeds)] for i in range(count)]
    return contents(
        {"model.width": {"low": 1, "high": 1000}}, sets, numbers, search={"method": "random", "trials": 9}, **more
    )


def test_every_pair_is_tested_and_of_many_arms_each_against_the_best():
    few = widths(4, seeds=3)
    found = few.differences(ELBO)
    assert [(one.first, one.second) for one in found] == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert found[0].beyond_chance
    higher, lower, mean, low, high = found[0].upward
    assert (higher, lower) == (2, 1)
    assert low < mean < high
    assert mean == pytest.approx(1.01)
    many = widths(ARMS + 1, seeds=3).differences(ELBO)
    assert {one.first for one in many} == {ARMS + 1}
    assert len(many) == ARMS
    same = widths(ARMS + 1, seeds=3).differences(BIAS)
    assert {one.first for one in same} == {ARMS + 1}, "not the best by the study's metric"


def test_noise_in_a_bias_is_not_beyond_chance():
    """|δ| of about 0.03 in every seed against exactly 0, but of changing sign."""
    noise = (0.031, -0.029, 0.03, -0.032, 0.028)
    numbers = [[{**biased(-100.0, one), BIAS: abs(one)} for one in noise], [biased(-100.0, 0.0)] * len(noise)]
    (found,) = contents(
        {"model.width": {"choices": [1, 2]}}, [{"model.width": 1}, {"model.width": 2}], numbers
    ).differences(BIAS)
    assert found.adjusted > 0.5


def test_one_seed_tells_nothing_from_chance():
    found = widths(3, seeds=1)
    assert not any(one.beyond_chance for one in found.differences(ELBO))
    page = html(found, [])
    assert "No difference could be tested" in page
    assert "<strong>one seed</strong>: every arm has one, so nothing in the table of arms tells" in page


WINNER = Confirmation(
    "made",
    1,
    {"model.width": 2},
    ELBO,
    -90.0,
    [
        TrackedRun(run_id, "FINISHED", {"hdvae.seed": str(seed), "hdvae.sources": "f" * 64}, {}, {ELBO: value}, 60.0)
        for run_id, seed, value in (("a", 7, -91.0), ("b", 8, -93.0))
    ],
    0,
    0,
    1,
)


def test_one_seed_with_confirmed_winners_says_that_they_have_intervals():
    page = html(replace(widths(3, seeds=1), confirmed=[WINNER]), [])
    assert "one seed" in page
    assert "the winners were run again on fresh seeds, and have intervals over them" in page
    assert "the winners were run again" not in html(widths(3, seeds=1), [])


def unfinished():
    """An arm with three seeds, one that has two of them, one of which no run is complete, and one not begun."""
    found = contents(
        {"model.width": {"choices": [1, 2, 3]}},
        [{"model.width": 1}, {"model.width": 2}, {"model.width": 3}],
        [[{ELBO: -1.0}, {ELBO: -3.0}, {ELBO: -8.0}], [{ELBO: -2.0}, {ELBO: -4.5}], []],
    )
    waiting = {"state": "WAITING", "kind": "search", "error": None, "run_id": None}
    rows = [(1, 2, 2), (2, 0, 3), (2, 1, 3), (2, 2, 3), (3, 0, 4), (3, 1, 4), (3, 2, 4)]
    for trial, seed, width in rows:
        found.status.trials.append({**waiting, "number": trial, "seed": seed, "params": {"model.width": width}})
    status = replace(found.status, state="interrupted", total=len(found.status.trials))
    return replace(found, status=status, not_begun=1)


def test_an_unfinished_study_is_counted_as_by_its_status():
    page = html(unfinished(), [])
    assert "4 arms, 12 runs: 5 complete, 7 yet to be run." in page
    assert "7 of the study&#39;s 12 runs have not ended" in page
    assert "(counted as by hdvae study status made); 2 of its arms have no complete run yet" in page


def test_differences_say_by_how_many_seeds_they_are_paired():
    """The means in the table of arms are −4.00 and −3.25; by the seeds that both have, the difference is +1.25."""
    found = unfinished()
    (one,) = found.differences(ELBO)
    assert (one.paired, one.seeds, one.interval.mean) == (True, 2, pytest.approx(1.25))
    page = html(found, [])
    assert "<small>paired by 2 of 3 seeds</small>" in page
    assert "<small>paired by" not in html(widths(3), [])
    assert "arms differ in their seeds" in page
    assert "arms differ in their seeds" not in html(widths(3), [])
    assert "more than half of each arm" in page


def drawn_again(sets, numbers):
    """The same, where a search drew every parameter set twice: each run has a bit-identical copy."""
    found = contents({"model.width": {"low": 1, "high": 99}}, sets, numbers, search={"method": "random", "trials": 9})
    for arm in found.arms:
        arm.arm.runs.extend(replace(run, run_id=f"{run.run_id}-again") for run in list(arm.arm.runs))
    return replace(found, tracked={run.run_id: run for arm in found.arms for run in arm.arm.runs})


def test_copies_of_a_run_add_no_seed():
    sets = [{"model.width": 8}, {"model.width": 16}]
    numbers = [[{ELBO: -100.0, BIAS: 1.0}, {ELBO: -110.0, BIAS: 2.0}], [{ELBO: -90.0, BIAS: 1.0}]]
    arms = drawn_again(sets, numbers).arms
    assert len(arms[0].values(ELBO)) == 4
    assert arms[0].interval(ELBO) == interval([-100.0, -110.0])
    assert arms[1].interval(ELBO) == Interval(-90.0, None, None), "one seed, however often"
    half = pytest.approx(interval([1.0, 2.0]).high - 1.5)
    assert bars([arm.interval(BIAS) for arm in arms]) == ([half, 0.0], [half, 0.0])


def test_bars_of_the_pareto_front_are_over_seeds():
    sets = [{"model.width": 8}, {"model.width": 16}]
    numbers = [[{ELBO: -100.0, BIAS: 1.0}, {ELBO: -110.0, BIAS: 2.0}], [{ELBO: -90.0, BIAS: 1.0}]]
    again = drawn_again(sets, numbers)
    axes = Figure().subplots()
    for arm in again.arms:
        figures._cross(axes, arm)
    drawn = [sorted(line.get_xdata()) for line in axes.lines]
    both = interval([1.0, 2.0])
    assert drawn == [[both.low, both.high], [1.5, 1.5]], "and none of the arm with one seed"


def test_values_that_are_not_finite_are_in_no_mean():
    found = contents(
        {"model.width": {"choices": [1, 2]}},
        [{"model.width": 1}, {"model.width": 2}],
        [[{ELBO: -1.0}, {ELBO: math.nan}], [{ELBO: -2.0}, {ELBO: -3.0}]],
    )
    assert found.arms[0].values(ELBO) == [-1.0]
    page = html(found, figures.all_figures(found))
    assert "<strong>not finite</strong>: valid/elbo in 1 of 4 runs, which its means leave out" in page
    assert ">nan" not in page


def test_the_pareto_front_says_only_what_its_means_say():
    """An arm of the front that is not among the best by ELBO has its number; ties beat nobody; 0 may be exact."""
    found = widths(20)
    drawn = figures.pareto_front(found)
    assert all(row[3] == "yes" for row in drawn.rows), "each has more bias than the one before, and more ELBO"
    labelled = re.findall(r"<!-- (\d+) -->", drawn.svg.decode())
    assert {"1", "2", "20"} <= set(labelled)
    sets = [{"model.latent": "normal", "model.width": i} for i in (1, 2)]
    space = {"model.latent": {"choices": ["normal", "categorical"]}, "model.width": {"choices": [1, 2]}}
    tied = figures.pareto_front(contents(space, sets, [[biased(-100.0, 0.0)]] * 2))
    assert "no other arm is better than arm 1 in either" in tied.caption
    assert "A bias of 0 is one by definition, of variables that are not relaxed: 1, 2." in tied.caption


def test_of_many_arms_the_best_are_told_apart():
    found = widths(20)
    assert [arm.number for arm in found.shown] == list(range(21 - SHOWN, 21))
    drawn = figures.pareto_front(found)
    assert len(drawn.rows) == 20
    assert f"Of 20 arms with complete runs the {SHOWN} best are told apart." in drawn.caption
    ET.fromstring(drawn.svg)


def test_arms_without_a_complete_run_are_not_counted_among_the_best():
    """A search with a pruner: many arms, few complete."""
    sets = [{"model.width": i + 1} for i in range(SHOWN + 3)]
    numbers = [[{ELBO: -1.0, BIAS: 0.1}], [{ELBO: -2.0, BIAS: 0.2}], *([[]] * (SHOWN + 1))]
    space = {"model.width": {"low": 1, "high": 99}}
    found = contents(space, sets, numbers, search={"method": "random", "trials": 9})
    assert "told apart" not in figures.pareto_front(found).caption


def test_a_page_has_a_bounded_number_of_arms(monkeypatch):
    monkeypatch.setattr("hdvae_platform.report.contents.MOST", 5)
    found = widths(8)
    assert [arm.number for arm in found.arms] == [4, 5, 6, 7, 8]
    page = html(found, figures.all_figures(found))
    assert "the study has 8 arms; these are the 5 best by valid/elbo" in page


def test_links_lead_to_the_server_and_hold_no_secret():
    page = html(widths(2), [])
    assert '<a href="http://host:5000/#/experiments/1/runs/run-0-1">run-0-1</a>' in page
    assert "secret" not in page


def test_confirmed_winners_stand_beside_the_value_of_the_search():
    page = html(replace(widths(2), confirmed=[replace(WINNER, lost=1)]), [])
    assert "Winners of the search on fresh seeds: valid/elbo" in page
    assert '<a href="#runs-of-2">trial 1: width 2</a>' in page
    for text in ("-90.00", "-92.00", "+2.00"):
        assert f">{text}</td>" in page
    assert "2<small>1 lost</small>" in page
    assert "1 run on fresh seeds did not end with a finite value and is left out" in page


def test_confirmations_are_among_the_runs_that_are_held_against_each_other():
    """Of other code than the search, and of other data: shrinkage is then also that of code and data."""
    other = [replace(run, tags={**run.tags, "hdvae.data_checksum": "e" * 64}) for run in WINNER.runs]
    found = replace(widths(2), confirmed=[replace(WINNER, runs=other)])
    row = {"number": 1, "kind": "confirmation", "state": "COMPLETE", "error": None, "params": {}}
    found.status.trials.extend({**row, "seed": int(run.tags["hdvae.seed"]), "run_id": run.run_id} for run in other)
    page = html(replace(found, tracked={**found.tracked, **{run.run_id: run for run in other}}), [])
    assert "<strong>mixed code</strong>: " in page
    assert "<strong>mixed data</strong>: 4 runs with checksum unknown; 2 runs with checksum eeeeeeee" in page
    assert "<td>checksum eeeeeeee</td>" in page, "the table of runs tells which is which"
    assert "6 min 0 s in all" in page, "their time counts"


def test_complete_runs_that_mlflow_lacks_are_not_silently_left_out():
    found = widths(2)
    page = html(replace(found, unsent=1), [])
    assert "<strong>not in MLflow</strong>: the final numbers of 1 complete run, which is not in these means" in page
    assert "not in MLflow" not in html(found, [])


def test_a_winner_whose_confirmations_were_all_lost_stands_there_without_them():
    page = html(replace(widths(2), confirmed=[replace(WINNER, runs=[], lost=2, unfinished=1)]), [])
    assert "2 lost, 1 not ended" in page
    assert "confirmations</strong>: 2 runs on fresh seeds did not end with a finite value" in page
    assert "confirmations</strong>: 1 run on fresh seeds had not ended" in page


def test_of_arms_that_are_all_the_same_none_is_beyond_chance_however_many():
    """The best of many is best by luck: it is compared with all others, and Holm's correction counts every pair."""
    random, beyond = np.random.default_rng(0), 0
    for _ in range(100):
        values = random.normal(size=(30, 1)) * 0 + random.normal(size=(30, 5)) - 100
        sets = [{"model.width": i + 1} for i in range(30)]
        numbers = [[{ELBO: value} for value in row] for row in values.tolist()]
        space = {"model.width": {"low": 1, "high": 99}}
        found = contents(space, sets, numbers, search={"method": "random", "trials": 30})
        beyond += any(one.beyond_chance for one in found.differences(ELBO))
    assert beyond <= 10, "5 of 100 are expected at most"


def test_arms_that_were_measured_differently_are_marked_as_by_compare():
    found = widths(2)
    for arm, samples in zip(found.arms, ("10", "1000"), strict=True):
        arm.arm.runs[:] = [replace(run, params={"evaluation.samples": samples}) for run in arm.arm.runs]
    page = html(found, [])
    assert "<strong>measured differently</strong>: evaluation.samples is 10 or 1000, under one name" in page


def test_each_metric_says_whether_all_its_pairs_are_tested():
    """Thirteen arms have an ELBO, the best of them no bias: twelve have one, and all of their pairs are tested."""
    found = widths(ARMS + 1)
    (best,) = (arm for arm in found.arms if arm.number == ARMS + 1)
    best.arm.runs[:] = [replace(run, metrics={ELBO: run.metrics[ELBO]}) for run in best.arm.runs]
    assert (len(found.differences(ELBO)), len(found.differences(BIAS))) == (ARMS, ARMS * (ARMS - 1) // 2)
    page = html(found, [])
    assert page.count("each is compared with the one of them that is best") == 1


def test_a_search_for_a_metric_of_training_is_said_to_be_one():
    search = {"method": "grid", "metric": "train/gradient_norm", "direction": "minimize"}
    sets, numbers = [{"model.width": 1}, {"model.width": 2}], [[{"train/gradient_norm": 1.0}]] * 2
    page = html(contents({"model.width": {"choices": [1, 2]}}, sets, numbers, search=search), [])
    assert "Numbers are of the validation images, but for those under <code>train/</code>." in page
    assert "All numbers are of the validation images." in html(widths(2), [])


def expecting(*expect, numbers):
    """Two arms by width, and what is expected of them."""
    sets = [{"model.width": 1}, {"model.width": 2}]
    return contents({"model.width": {"choices": [1, 2]}}, sets, numbers, expect=expect)


def test_every_metric_of_a_search_is_a_column_and_tested():
    search = {"method": "grid", "also": {"valid/perplexity/layer_1": "maximize"}}
    numbers = [
        [{ELBO: -90.0 - i - seed / 9, "valid/perplexity/layer_1": 3.0 + i + seed / 7} for seed in range(3)]
        for i in (0, 1)
    ]
    found = contents(
        {"model.width": {"choices": [2, 4]}}, [{"model.width": 2}, {"model.width": 4}], numbers, search=search
    )
    page = html(found, [])
    assert "maximize valid/elbo, maximize valid/perplexity/layer_1" in page
    assert re.search(r"<th[^>]*>(<[^>]+>)*\s*elbo.*<th[^>]*>(<[^>]+>)*\s*perplexity/layer_1", page, re.S)
    assert [one.beyond_chance for one in found.differences("valid/perplexity/layer_1")] == [True]
    assert found.metrics == [ELBO, "valid/perplexity/layer_1", BIAS]


def test_the_page_says_whether_the_data_support_the_claim():
    numbers = [[biased(-100.0 + i + s / 9 + (i * s) / 50, 0.1) for s in range(4)] for i in range(2)]
    wider = {"metric": ELBO, "higher": {"model.width": 2}, "than": {"model.width": 1}}
    narrower = {"metric": ELBO, "higher": {"model.width": 1}, "than": {"model.width": 2}}
    same = {"metric": BIAS, "higher": {"model.width": 2}, "than": {"model.width": 1}}
    page = html(expecting(wider, numbers=numbers), [])
    assert '<strong class="supported">The data support the claim</strong>' in page
    assert 'valid/elbo is higher with width 2 than with width 1: <strong class="supported">supported</strong>' in page
    assert "What is expected was stated before the study was begun." in page
    assert "The data contradict the claim" in html(expecting(wider, narrower, numbers=numbers), [])
    found = expecting(wider, same, numbers=numbers)
    page = html(replace(found, restated=1.6e9), [])
    assert "The data leave the claim open" in page
    assert "What is expected was last changed on 2020-09-13 12:26 UTC, after the study was begun" in page
    assert "The study file states nothing that could be tested" in html(widths(2), [])


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=2, max_size=3))
def test_labels_of_points_that_are_close_stand_apart(points):
    """Two digits of 9 points are some 10 wide and 7 high."""
    chosen = figures.corners(dict(enumerate(points)), (-90, -90, 90, 90))
    labels = [(x + chosen[key][0], y + chosen[key][1]) for key, (x, y) in enumerate(points)]
    assert all(math.dist(one, other) > 7 for one, other in itertools.combinations(labels, 2))


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=1, max_size=7))
def test_labels_stand_inside_the_panel(points):
    """Also of a point on the axis, where arms without a bias are."""
    chosen = figures.corners(dict(enumerate(points)), (0, 0, 60, 60))
    for key, (x, y) in enumerate(points):
        assert 7 <= x + chosen[key][0] <= 53
        assert 7 <= y + chosen[key][1] <= 53


def made(monkeypatch, draw, found):
    """The figure behind a drawing, laid out."""
    figures_made = []

    def rendered(*arguments):
        figures_made.append(arguments[4]())
        figures_made[0].draw_without_rendering()
        return arguments

    with mpl.rc_context(RC), monkeypatch.context() as patch:
        patch.setattr(figures, "render", rendered)
        draw(found)
    return figures_made[0]


def test_names_of_axes_are_within_the_schedules(monkeypatch):
    space = {"training.freebits": {"choices": [0.5, 1.0]}, "training.memory_learning_rate": {"choices": [0.1, 0.2]}}
    sets = [{"training.freebits": b, "training.memory_learning_rate": r} for b, r in [(0.5, 0.1), (1.0, 0.2)]]
    figure = made(monkeypatch, figures.schedules, contents(space, sets, [[{ELBO: -1.0}], [{ELBO: -2.0}]]))
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
    (axes,) = made(monkeypatch, figures.parallel_coordinates, found).axes
    highest = max(line.get_zorder() for line in axes.lines)
    assert len(axes.texts) == 9
    for text in axes.texts:
        assert text.get_zorder() > highest
        assert text.get_bbox_patch().get_alpha() in (None, 1)


def test_bias_by_size_is_as_high_as_its_means_and_has_colours_of_its_own(monkeypatch):
    layer = {"variables": 4, "classes": 16}
    choices = [[layer], [{**layer, "variables": 8}], [layer, layer], [{**layer, "variables": 8}] * 2]
    numbers = [[{BIAS: 1.0 + i - 0.9}, {BIAS: 1.0 + i + 40.0}] for i in range(4)]
    found = contents({"model.layers": {"choices": choices}}, [{"model.layers": one} for one in choices], numbers)
    figure = made(monkeypatch, figures.bias_by_size, found)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low <= 20.55
    left, right = axes.get_xlim()
    assert 3 < left < 4
    assert 16 < right < 18
    assert 23.55 < high < 30
    assert not {line.get_color() for line in axes.lines} & {style.colour for style in STYLES}
    drawn = figures.bias_by_size(found)
    assert "Colours are of the lines here, not of arms" in drawn.caption


def test_the_pareto_front():
    points = {1: (0.0, -10.0), 2: (1.0, -9.0), 3: (1.0, -9.5), 4: (2.0, -9.0), 5: (3.0, -8.0)}
    assert figures.pareto(points) == [1, 2, 5]


def test_schedules_are_drawn_where_something_moves_or_differs():
    one = contents({}, [{}], [[{ELBO: -1.0}]])
    drawn = figures.schedules(one)
    assert isinstance(drawn, NotDrawn)
    assert "temperature τ 0.5" in drawn.reason
    learned = {step: {"train/tau": 1 / step} for step in (1, 2, 4)}
    space = {"training.temperature": {"choices": [0.5, "learned", [[0, 0.8], [50, 0.1]]]}}
    sets = [{"training.temperature": value} for value in space["training.temperature"]["choices"]]
    two = contents(space, sets, [[{ELBO: -1.0}]] * 3, curves={1: learned})
    drawn = figures.schedules(two)
    assert isinstance(drawn, Drawn)
    assert ["temperature τ", "2", "learned"] in [list(row) for row in drawn.rows]
    assert "free bits λ, nats per layer 2" in drawn.caption
    steps, values = figures._course(two.arms[2].experiment.training.temperature, two.arms[2])
    assert values[steps.index(25)] == pytest.approx(0.45)
    assert (steps[0], steps[-1]) == (0, 100)
    assert figures._course("learned", two.arms[1]) == ([1, 2, 4], [1.0, 0.5, 0.25])


def test_bias_by_size_takes_depth_apart():
    layer = {"variables": 4, "classes": 16}
    choices = [[layer], [{**layer, "variables": 8}], [layer, layer], [{**layer, "variables": 8}] * 2]
    sets = [{"model.layers": choice} for choice in choices]
    found = contents(
        {"model.layers": {"choices": choices}}, sets, [[{BIAS: 1.0 + i}, {BIAS: 1.5 + i}] for i in range(4)]
    )
    drawn = figures.bias_by_size(found)
    assert [row[:2] for row in drawn.rows] == [
        ["1 layer", "4"],
        ["1 layer", "8"],
        ["2 layers", "8"],
        ["2 layers", "16"],
    ]
    assert isinstance(figures.bias_by_size(widths(3)), NotDrawn)


def test_bias_by_size_knows_what_presets_stand_for():
    names = [f"table4-L{depth}-N{n}" for depth in (1, 2) for n in (12, 24)]
    found = contents(
        {"preset": {"choices": names}}, [{"preset": name} for name in names], [[{BIAS: 1.0 + i}] for i in range(4)]
    )
    drawn = figures.bias_by_size(found)
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
    drawn = figures.parallel_coordinates(found)
    assert drawn.rows[0] == ["1", "1.0", "free", "—", "-1.00"]
    dimensions = found.study.space
    place, _ = figures._scale("training.freebits", dimensions["training.freebits"], found.arms)
    assert place(1.0) == pytest.approx(0.5)
    place, ticks = figures._scale("model.decoder_scale", dimensions["model.decoder_scale"], found.arms)
    assert (place(20.0), place(figures._MISSING)) == (pytest.approx(0.9), 1.0)
    assert ticks[-1] == (1.0, "—")


def test_choices_that_look_alike_are_told_apart_and_none_is_one_of_them():
    layers = [[{"variables": 4, "classes": classes}] for classes in (16, 64, 256)]
    space = {"model.layers": {"choices": layers}, "training.gradient_clip": {"choices": [None, 1.0]}}
    sets = [{"model.layers": one, "training.gradient_clip": clip} for one in layers for clip in (None, 1.0)]
    found = contents(space, sets, [[{ELBO: -1.0 - i}] for i in range(6)])
    dimensions = found.study.space
    _, ticks = figures._scale("model.layers", dimensions["model.layers"], found.arms)
    assert len({text for _, text in ticks}) == 3
    place, ticks = figures._scale("training.gradient_clip", dimensions["training.gradient_clip"], found.arms)
    assert (place(None), ticks) == (0.0, [(0.0, "none"), (1.0, "1.0")])
    assert figures.parallel_coordinates(found).rows[0][2] == "none"


def test_importance_is_drawn_in_order():
    drawn = figures.importance(widths(2, importances={"b": 0.7, "a": 0.3}))
    assert [row[0] for row in drawn.rows] == ["b", "a"]
    assert drawn.header == ["setting", "share"]


def test_names_with_dollars_and_markup_are_drawn_as_they_are():
    space = {"data.path": {"choices": ["$x^{", "<b>&--></b>"]}}
    plain = {"data": {"path": "a"}, **{key: PLAIN["experiment"][key] for key in ("model", "training")}}
    study = {**PLAIN, "experiment": plain}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLAIN, "experiment", study["experiment"])
        sets = [{"data.path": choice} for choice in space["data.path"]["choices"]]
        found = contents(space, sets, [[{ELBO: -1.0, BIAS: 0.1}], [{ELBO: -2.0, BIAS: 0.2}]])
    drawn = figures.pareto_front(found)
    ET.fromstring(drawn.svg)
    ET.fromstring(f"<div xmlns:xlink='http://www.w3.org/1999/xlink'>{drawn.inline}</div>")
    assert "<b>" not in drawn.inline
    assert "2. path &lt;b&gt;&amp;--&gt;&lt;/b&gt;" in html(found, [drawn])


def lines_of(found):
    """The lines of the section on the experiment."""
    told = settings.all_settings(found.study, [arm.experiment for arm in found.arms])
    return settings.in_short(found.study, told, found.images)


def test_the_experiment_is_stated():
    found = contents(
        {"model.width": {"choices": [8, 16]}, "training.freebits": {"low": 0.1, "high": 4.0, "log": True}},
        [{"model.width": 8, "training.freebits": 1.0}],
        [[{ELBO: -1.0}]],
        search={"method": "random", "trials": 9},
    )
    lines = lines_of(replace(found, images=200))
    assert lines["data"] == "mnist5k"
    assert lines["network"] == (
        "wiring skip_lvae, latent categorical, blocks conv, width varied, depth 3, dropout 0.5"
    ), "varied though one arm has begun"
    assert lines["layers"] == "z_1: variables 4, classes 16"
    assert lines["training"].startswith("steps 100, batch_size 128, temperature 0.5, freebits varied, ")
    assert "every 1000 steps on 200 images of the validation split, draws (M) 10 for each" in lines["measured"]
    assert "iw_elbo with S = 100" in lines["measured"]
    assert lines["measured"].endswith("τ = 0.1")
    assert lines["varied"] == "model.width: 8 | 16; training.freebits: 0.1 to 4, log"
    assert lines["search"] == "random, 9 parameter sets, seeds 0; maximize valid/elbo"
    assert "on at most 1000 images" in lines_of(found)["measured"]
    page = html(found, [])
    assert "<dt>training</dt><dd>steps 100, batch_size 128" in page
    assert "<td>training.estimator_samples</td>" in page, "the full list"
    assert "surrogate at τ = 0.1." in page


def test_settings_that_differ_between_arms_are_not_told_as_common():
    """Also those that no path of the space names: a preset sets many."""
    layer = {"variables": 4, "classes": 16}
    found = contents(
        {"model.layers": {"choices": [[layer], [layer, layer]]}},
        [{"model.layers": [layer]}, {"model.layers": [layer, layer]}],
        [[{ELBO: -1.0}], [{ELBO: -2.0}]],
    )
    assert lines_of(found)["layers"] == "varied"
    one = contents({}, [{}, {}], [[{ELBO: -1.0}], [{ELBO: -2.0}]])
    longer = one.arms[1].experiment.training.model_copy(update={"steps": 200})
    one.arms[1].experiment = one.arms[1].experiment.model_copy(update={"training": longer})
    assert lines_of(one)["training"].startswith("steps varied, batch_size 128")
