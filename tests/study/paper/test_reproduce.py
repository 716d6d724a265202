"""The paper's tables and figures from end to end, at a budget of seconds."""

from __future__ import annotations

import io
import json
import shutil
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from hdvae.errors import InputError
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.cli import run
from hdvae_platform.paper import figures
from hdvae_platform.paper import reproduce as reproduce_module
from hdvae_platform.paper.budgets import BUDGETS, Budget, timed_experiment
from hdvae_platform.paper.printed import TABLES
from hdvae_platform.paper.reproduce import reproduce
from hdvae_platform.paper.step_cost import measured_alone
from hdvae_platform.paper.tables import Result, side_by_side
from hdvae_platform.running.launch import Launch
from hdvae_platform.store.places import Places
from hdvae_platform.tracking.client import Client
from tests.study.commands.test_cli import fails

SMALL = {"blocks": "dense", "width": 8, "depth": 1, "dropout": 0.0}


def budget(file, **changes) -> Budget:
    """The numbers of table 4 at two cells and of table 1 at L = 3, on small images."""
    settings = {
        "cost": "seconds",
        "experiment": {
            "model": SMALL,
            "training": {"steps": 10, "batch_size": 16, "temperature": 0.5},
            "evaluation": {"every": 10, "images": 20, "draws": 2, "samples": 5, "tau": [0.1]},
        },
        "data": {"binarized_mnist": {"path": str(file)}},
        "cells": "table2-L3.*|table4-L1-N(12|24)",
        "resources": {"concurrent": 1},
        "images": 16,
        "draws": 2,
        "samples": 4,
    }
    return Budget("tiny", **{**settings, **changes})


@pytest.fixture(scope="module")
def home(tmp_path_factory, made_databases, images):
    folder = tmp_path_factory.mktemp("reproduction")
    np.savez(folder / "images.npz", **images)
    (folder / "runs").mkdir()
    shutil.copy(made_databases / "mlflow.db", folder / "runs/mlflow.db")
    return Places.under(folder / "runs"), folder / "images.npz"


@pytest.fixture(scope="module")
def table4(home):
    places, file = home
    said: list[str] = []
    return reproduce("table4", budget(file), places, said.append, Launch()), said


@pytest.fixture(scope="module")
def figure2(home):
    places, file = home
    return reproduce("figure2", budget(file), places, lambda line: None, Launch())


def cells(done):
    return {cell.place: cell for table in done.tables for row in table.rows for cell in row}


def test_cells_that_were_run_are_the_metrics_on_test_of_their_runs(table4, home):
    done, _ = table4
    assert (done.unfinished, done.failed) == (False, False)
    found = {place: cell for place, cell in cells(done).items() if cell.ours is not None}
    assert {place.rpartition(",")[0] for place in found} == {"table 4, L = 1, N = 12", "table 4, L = 1, N = 24"}
    assert len(found) == 6
    client = Client(home[0])
    for cell in found.values():
        (run_id,) = cell.run_ids
        tracked = client.get(run_id)
        assert cell.handles == (tracked.handle,)
        assert json.loads(tracked.tags["hdvae.arm"]) == {"preset": cell.printed.preset}
        assert tracked.metrics[f"test/{cell.printed.metric}"] == cell.ours.mean
        assert cell.ours.low < cell.ours.mean < cell.ours.high
    bias = found["table 4, L = 1, N = 12, δ τ=0.1"].ours.mean
    surrogate, elbo = (found[f"table 4, L = 1, N = 12, L₁ {tau}"].ours.mean for tau in ("τ=0.1", "τ=0"))
    assert bias == pytest.approx(abs(surrogate - elbo), abs=1e-9)


def test_captions_say_budget_network_steps_seeds_and_data(table4):
    text = table4[0].text()
    for words in (
        "tiny",
        "dense blocks, width 8",
        "10 steps of 16 images",
        "seeds [0]",
        "for binarized_mnist (16 test",
    ):
        assert words in text
    assert "The paper's settings are different: skip_lvae of conv blocks, width 64" in text
    assert "leaves out the variation between trainings" in text


def test_figure_1_has_two_panels_and_trains_and_measures_nothing_again(table4, home):
    places, file = home
    said: list[str] = []
    done = reproduce("figure1", budget(file), places, said.append, Launch())
    assert [line for line in said if "test images" in line or "runs " in line] == []
    assert {place: cell.ours for place, cell in cells(done).items()} == {
        place: cell.ours for place, cell in cells(table4[0]).items()
    }
    assert set(done.files) == {"figure1.png", "figure1.svg"}
    assert_drawn(done.files["figure1.png"])
    svg = done.files["figure1.svg"].decode()
    assert svg.count('<g id="axes_') == 2


def test_other_settings_of_the_evaluation_measure_again(table4, home):
    places, file = home
    said: list[str] = []
    done = reproduce("table4", budget(file, draws=3), places, said.append, Launch())
    assert len([line for line in said if "16 test images" in line]) == 2
    assert cells(done) != cells(table4[0])


def test_where_no_cell_was_run_the_figure_says_so():
    """A study that was stopped before its first run, or of which all runs failed."""
    table = side_by_side(TABLES["table4"][0], {})
    assert reproduce_module._lines(table, ours=True) == {}
    files = figures.bias_figure({}, {}, "nothing")
    assert_drawn(files["figure1.png"])
    assert files["figure1.svg"].decode().count("<!-- not run -->") == 2


def test_what_is_not_finite_is_no_number_of_a_cell():
    evaluations = [("s/0/0", {"run": "a", "metrics": {"elbo": None, "kl": 3.0}, "standard_errors": {}})]
    assert reproduce_module._joined(evaluations) == Result({"kl": Interval(3.0, None, None)}, ("a",), ("s/0/0",))
    again = [*evaluations, ("s/0/1", {"run": "b", "metrics": {"elbo": -1.0, "kl": 5.0}, "standard_errors": {}})]
    assert list(reproduce_module._joined(again).values) == ["kl"], "never the mean of those that are finite"
    table = side_by_side(
        TABLES["table4"][0], {("binarized_mnist", "table4-L1-N12"): reproduce_module._joined(evaluations)}
    )
    assert "not finite" in table.text()


def test_runs_of_several_versions_of_the_code_have_a_caption(table4, home):
    places, file = home
    client = Client(places)
    run_id = next(cell.run_ids[0] for cell in cells(table4[0]).values() if cell.run_ids)
    before = client.get(run_id).tags["hdvae.sources"]
    client.set_tags(run_id, {"hdvae.sources": "f" * 64})
    try:
        done = reproduce("table4", budget(file), places, lambda line: None, Launch())
    finally:
        client.set_tags(run_id, {"hdvae.sources": before})
    (caveat,) = (caption for caption in done.captions if caption.startswith("mixed code"))
    assert "(sources ffffffff" in caveat
    assert not any(caption.startswith("mixed code") for caption in table4[0].captions)


def test_what_other_code_measured_is_measured_again(table4, home):
    places, file = home
    client, said = Client(places), []
    run_id = next(cell.run_ids[0] for cell in cells(table4[0]).values() if cell.run_ids)
    kept = json.loads(client.read_file(run_id, reproduce_module.EVALUATION_FILE))
    wrong = {**kept, "sources": "other", "metrics": {**kept["metrics"], "elbo": -1.0}}
    client.log_file(run_id, reproduce_module.EVALUATION_FILE, json.dumps(wrong).encode())
    done = reproduce("table4", budget(file), places, said.append, Launch())
    assert len([line for line in said if "16 test images" in line]) == 1
    assert {place: cell.ours for place, cell in cells(done).items()} == {
        place: cell.ours for place, cell in cells(table4[0]).items()
    }


def test_several_seeds_give_intervals_over_runs():
    evaluations = [
        (f"s/0/{run}", {"run": run, "metrics": {"elbo": value}, "standard_errors": {"elbo": 5.0}})
        for run, value in (("a", -3.0), ("b", -1.0), ("c", -2.0))
    ]
    found = reproduce_module._joined(evaluations)
    assert (found.run_ids, found.handles) == (("a", "b", "c"), ("s/0/a", "s/0/b", "s/0/c"))
    assert found.values["elbo"] == interval([-3.0, -1.0, -2.0])
    (alone,) = [reproduce_module._joined(evaluations[:1])]
    assert alone.values["elbo"] == Interval(-3.0, pytest.approx(-3 - 1.96 * 5), pytest.approx(-3 + 1.96 * 5))


def test_figure_1_draws_the_intervals_of_ours_in_colours_that_are_seen(monkeypatch):
    made = []
    monkeypatch.setattr(figures, "_files", lambda figure, name, caption: made.append(figure) or {})
    ours = {
        metric: {depth: [(12, Interval(-9.0, -10.0, -7.5)), (24, Interval(-8.0, None, None))] for depth in (1, 2)}
        for metric in ("elbo", "surrogate_elbo", "relaxation_bias")
    }
    paper = {"relaxation_bias": {depth: [(12, Interval(2.0, None, None))] for depth in (1, 2)}}
    figures.bias_figure(ours, paper, "")
    left, right = made[0].axes
    reaches = [
        [(bar[0][1], bar[1][1]) for bar in container.lines[2][0].get_segments()]
        for axes in (left, right)
        for container in axes.containers
        if container.has_yerr
    ]
    assert reaches == [[(-10.0, -7.5), (-8.0, -8.0)]] * 6, "and the paper's have none"
    for line in right.lines:
        red, green, blue, alpha = to_rgba(line.get_color(), line.get_alpha())
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.65, "too light on white"
        assert alpha == 1


def test_figure_2_names_the_data_that_were_used(figure2, home, monkeypatch):
    """The paper's data set is not what these models learned from."""
    places, file = home
    panels: dict[str, object] = {}
    monkeypatch.setattr(reproduce_module, "samples_figure", lambda found, caption: panels.update(found) or {})
    reproduce("figure2", budget(file), places, lambda line: None, Launch())
    assert list(panels) == [
        "(a) Gaussian, L = 3, images",
        "(b) discrete, L = 3, images",
        "(c) Gaussian, L = 3, fashion_mnist",
        "(d) discrete, L = 3, fashion_mnist",
    ]


def test_figure_2_draws_what_was_run(figure2):
    assert set(figure2.files) == {"figure2.png", "figure2.svg"}
    assert_drawn(figure2.files["figure2.png"])
    assert figure2.files["figure2.svg"].decode().count("<image") == 2
    assert figure2.tables == []


def test_table_1_has_a_bound_of_several_samples_and_the_kl(figure2, home):
    places, file = home
    done = reproduce("table1", budget(file), places, lambda line: None, Launch())
    found = {place: cell for place, cell in cells(done).items() if cell.ours is not None}
    assert {cell.printed.metric for cell in found.values()} == {"iw_elbo", "kl"}
    assert {cell.printed.preset for cell in found.values()} == {"table2-L3", "table2-L3-normal"}
    for cell in found.values():
        metrics = Client(places).get(cell.run_ids[0]).metrics
        assert metrics["test/iw_elbo@S=4"] == metrics["test/iw_elbo"]
        assert cell.ours.low < metrics[f"test/{cell.printed.metric}"] < cell.ours.high
    assert "S = 4 for L_S" in done.text()
    assert "L₁₀₀₀ discrete: paper  ours (L₄)" in done.text()


def test_table_3_measures_time_and_memory_of_both_models(home, monkeypatch):
    places, file = home
    asked = []

    def one_step(experiment, steps):
        asked.append((experiment.model.latent, len(experiment.model.layers), steps))
        return measured_alone(experiment, steps)

    monkeypatch.setattr(reproduce_module, "measured_alone", one_step)
    runtime = {"model": SMALL, "training": {"steps": 10}}
    done = reproduce("table3", budget(file, timed=2, runtime=runtime), places, lambda line: None, Launch())
    assert asked == [("normal", 6, 2), ("categorical", 6, 2)]
    for cell in cells(done).values():
        assert cell.ours.mean > 0
    seconds = cells(done)["table 3, latent = normal, seconds / step"]
    assert seconds.ours.low < seconds.ours.mean < seconds.ours.high
    assert "2 steps are timed" in done.text()


def test_a_failed_process_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="ended with exit code 1"):
        measured_alone(timed_experiment("table3", BUDGETS["smoke"]), 1)


def assert_drawn(png: bytes) -> None:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width >= 900
        assert len(set(picture.convert("L").tobytes())) > 50


def test_bad_input_is_one_line(capsys, places):
    assert "did you mean 'table1'" in fails(capsys, "reproduce", "tabel1", "--home", places.home)
    assert "did you mean 'smoke'" in fails(capsys, "reproduce", "table4", "--budget", "smok", "--home", places.home)
    said = fails(capsys, "reproduce", "table1", "--budget", "cpu", "--home", places.home)
    assert "hdvae data fetch binarized_mnist caltech101_silhouettes fashion_mnist omniglot" in said
    assert "hdvae data fetch binarized_mnist --home" in fails(
        capsys, "reproduce", "figure1", "--budget", "full", "--home", places.home
    )
    blocked = places.home / "file"
    blocked.write_text("")
    arguments = ["reproduce", "table4", "--out", blocked / "out", "--home", places.home]
    assert f"--out {blocked / 'out'}: cannot be written" in fails(capsys, *arguments)


def test_the_command_writes_and_prints(capsys, home, monkeypatch, table4, tmp_path):
    places, file = home
    monkeypatch.setitem(BUDGETS, "tiny", budget(file))
    arguments = ["reproduce", "figure1", "--budget", "tiny", "--home", str(places.home)]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "table 4" in shown
    assert str(places.home / "reproductions/figure1-tiny/figure1.png") in shown
    assert run([*arguments, "--json", "--out", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["target"], document["budget"], document["unfinished"]) == ("figure1", "tiny", False)
    assert len(document["tables"][0]["rows"]) == 24
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["figure1.json", "figure1.md", "figure1.png", "figure1.svg"]
    assert json.loads((tmp_path / "out/figure1.json").read_text())["tables"] == document["tables"]
