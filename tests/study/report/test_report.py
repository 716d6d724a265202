"""The report of a real finished study, read as text and in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import sqlite3
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from selenium.webdriver.support.expected_conditions import frame_to_be_available_and_switch_to_it
from selenium.webdriver.support.wait import WebDriverWait

from hdvae_platform.analysis.arms_from_mlflow import read_arms
from hdvae_platform.analysis.inference import difference, interval
from hdvae_platform.cli import run as run_command
from hdvae_platform.display.text import rounded
from hdvae_platform.report.drawing import Drawn, NotDrawn
from hdvae_platform.report.figures.collection import all_figures
from hdvae_platform.report.formatting import mean_alone
from hdvae_platform.report.reading import read_contents
from hdvae_platform.report.writing import is_reported
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.study.expectation import Expectation
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client
from tests.study.conftest import STUDY
from tests.study.helpers.browser import CHROMIUM, DRIVER, browser
from tests.study.helpers.commands import Command

CLAIM = "Small <script>document.title = 'owned'</script> & \"quick\" {{ 7 * 7 }} things <b>run</b>."
CLAIM += " <img src='http://127.0.0.1:9/'>"
NO_USERS = "/ajax-api/2.0/mlflow/users/current - Failed to load resource: the server responded with a status of 404"
"""What MLflow's page says to its console on a server without users."""
FIGURES = {
    "learning_curves",
    "bias_by_temperature",
    "bias_by_variables",
    "elbo_relaxation_bias_by_training_temperature",
    "pareto_front",
    "parallel_coordinates",
    "schedules",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, made_databases, images):
    """A home with a study of six arms and two seeds, run to its end by the command."""
    folder = tmp_path_factory.mktemp("reported")
    np.savez(folder / "images.npz", **images)
    plain = yaml.safe_load(STUDY)
    plain["claim"] = CLAIM
    plain["experiment"]["data"]["path"] = str(folder / "images.npz")
    plain["experiment"]["evaluation"]["images"] = 1000
    plain["space"]["model.layers.0.variables"] = {"choices": [2, 4]}
    (folder / "small.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    home = folder / "runs"
    home.mkdir()
    shutil.copy(made_databases / "mlflow.db", home / "mlflow.db")
    done = Command("study", "run", folder / "small.yaml", environment={"HDVAE_HOME": str(home)}).completed()
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    """The report, made once by the command."""
    out = tmp_path_factory.mktemp("report")
    assert run_command(["report", "small", "--out", str(out), "--home", str(finished)]) == 0
    return out / "report.html"


@pytest.fixture
def home(finished, tmp_path):
    """A copy of the home, to be changed; its artifacts stay where they are."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def report(home, *options):
    return run_command(["report", "small", "--home", str(home), *map(str, options)])


def text_of(home):
    return (home / "reports/small/report.html").read_text()


def test_page_and_figures_are_there_and_in_mlflow(finished, page, capsys, tmp_path):
    assert report(finished, "--out", tmp_path / "again", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(tmp_path / "again/report.html")
    assert printed["logged"]
    names = {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    assert {Path(file).name for file in printed["figures"]} == names
    client = mlflow.MlflowClient(Places.under(finished).tracking)
    (parent,) = Client(Places.under(finished)).find({"hdvae.study": "small", "hdvae.kind": "study"})
    listed = [
        one.path for folder in ("report", "report/figures") for one in client.list_artifacts(parent.run_id, folder)
    ]
    assert {Path(one).name for one in listed} == names | {"report.html", "figures"}
    for file in printed["figures"]:
        again = Path(file)
        assert again.read_bytes() == (page.parent / "figures" / again.name).read_bytes(), (
            "not the same for the same data"
        )
    assert Path(printed["report"]).read_bytes() == page.read_bytes()


def test_what_a_user_wrote_is_text(page):
    text = page.read_text()
    assert "Small &lt;script&gt;document.title" in text
    assert "{{ 7 * 7 }} things &lt;b&gt;run" in text
    assert text.count("<script>") == 1


def test_means_and_differences_are_those_of_the_comparison(finished, page):
    text = page.read_text()
    found = read_arms(Client(Places.under(finished)), ["small"])
    assert len(found) == 6
    for arm in found:
        value = interval(arm.values("valid/elbo"))
        assert f"{rounded(value.mean, value.high - value.mean)}<" in text
    apart = difference(found[0].by_seed("valid/elbo"), found[1].by_seed("valid/elbo"))
    assert apart.paired
    assert f">{mean_alone(apart.interval(), '+')}</td>" in text
    for run_id in (run.run_id for arm in found for run in arm.runs):
        assert re.search(
            rf'"http://127\.0\.0\.1:5000/#/experiments/\d+/runs/{run_id}" title="{run_id}">{run_id[:8]}</a>', text
        )
    assert "The links work while <code>hdvae ui</code> runs on this machine" in text


def test_provenance_is_stated(page):
    text = page.read_text()
    for part in ("hdvae 0", "data checksum", "Python", "torch", "hours"):
        assert part in text


def test_the_images_that_were_measured_are_counted(page):
    """The split has 24, and 1000 were asked for."""
    assert "every 10 steps on 24 images of the validation split" in page.read_text()


def test_figures_apply_or_say_why(finished):
    contents = read_contents(Places.under(finished), "small")
    figures = {one.name: one for one in all_figures(contents)}
    assert {name for name, one in figures.items() if isinstance(one, Drawn)} == FIGURES
    assert isinstance(figures["importance"], NotDrawn)
    assert "at least 10 complete trials" in figures["importance"].reason
    sizes = figures["bias_by_variables"].rows
    assert {(row[0], row[1]) for row in sizes} == {
        (text, size)
        for text in ("latent normal", *(f"latent categorical, temperature {spec}" for spec in ("0.1", "0.8→0.1 at 20")))
        for size in ("3", "5")
    }
    for name in FIGURES:
        assert figures[name].png.startswith(b"\x89PNG")
        assert "currentColor" in figures[name].inline
        assert "<!--" not in figures[name].inline
        assert figures[name].alt


def test_a_figure_that_no_longer_applies_goes(home):
    stale = home / "reports/small/figures/importance.png"
    stale.write_bytes(b"old")
    assert report(home) == 0
    assert not stale.exists()


def test_curves_come_from_mlflow_where_the_storage_has_none(home):
    known = read_contents(Places.under(home), "small").arms[0]
    shutil.rmtree(home / "studies")
    found = read_contents(Places.under(home), "small").arms[0]
    assert found.samples is None
    assert found.curves.keys() == known.curves.keys()
    for run_id, curve in known.curves.items():
        assert found.curves[run_id].keys() == curve.keys() == {10, 20}
        assert found.curves[run_id][20]["valid/elbo"] == curve[20]["valid/elbo"]


def test_mixed_code_and_missing_metrics_and_failures_are_shown(home):
    client = Client(Places.under(home))
    runs = list(client.find({"hdvae.study": "small", "hdvae.kind": "run"}))
    client.set_tags(runs[0].run_id, {"hdvae.sources": "0123456789abcdef"})
    failed = runs[-1]
    client.set_tags(failed.run_id, {"hdvae.state": "FAIL"})
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as db, db:
        lacking = (runs[1].run_id, "valid/relaxation_bias")
        assert db.execute("DELETE FROM latest_metrics WHERE run_uuid = ? AND key = ?", lacking).rowcount == 1
    with contextlib.closing(sqlite3.connect(home / "optuna.db")) as db, db:
        error = "no answer from postgresql://me:secret@host/db <img src=http://192.0.2.1/x>"
        at = (error, failed.tags["hdvae.trial"], failed.tags["hdvae.seed"])
        db.execute("UPDATE hdvae_runs SET state = 'FAIL', error = ? WHERE trial = ? AND seed = ?", at)
    assert report(home) == 0
    text = text_of(home)
    assert "<strong>mixed code</strong>: 10 runs with hdvae" in text
    assert "1 run with hdvae" in text
    assert "(sources 01234567" in text
    assert "<strong>missing</strong>: valid/relaxation_bias in 1 of 11 runs; its means leave these runs out" in text
    assert "from 1 of 2 runs" in text
    assert "postgresql://…@host/db &lt;img src=" in text
    assert "secret" not in text
    assert "11 complete, 1 failed" in text


def test_bad_input_is_one_line(home, monkeypatch, capsys, tmp_path):
    def fails(*arguments, line):
        assert run_command(["report", "--home", str(home), *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert re.fullmatch(f"hdvae: {line}\n", printed.err), printed.err

    before = {path: path.stat().st_mtime_ns for path in home.glob("reports/**/*")}
    assert home / "reports/small/report.html" in before, "made when the study was finished"
    fails("smal", line=r"no study smal in .*; did you mean 'small'\?")
    (tmp_path / "file").write_text("")
    for plot, said in (
        ("elbo", "write --plot METRIC:SETTING, e.g. .*"),
        ("elbow:training.temperature", r"no run has the metric valid/elbow; did you mean 'elbo'\?"),
        (
            "elbo:training.temperatur",
            r"the study did not vary training.temperatur; did you mean 'training.temperature'\?",
        ),
        ("elbo:width", "the study did not vary width; .*"),
    ):
        fails("small", "--plot", plot, line=f"--plot {plot}: {said}")
    fails("small", "--out", tmp_path / "file", line=".*file: the report cannot be written: .*")
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as db, db:
        db.execute("UPDATE tags SET value = 'WAITING' WHERE key = 'hdvae.state'")
    fails("small", line="no run of small is complete yet: `hdvae study status small`")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    fails("small", line="MLflow at http://…@127.0.0.1:9 does not answer: connection refused")
    assert {path: path.stat().st_mtime_ns for path in home.glob("reports/**/*")} == before


def test_an_arm_of_which_mlflow_lacks_every_run_is_a_caveat(home):
    """The study database knows that they are complete; MLflow was away when they ended, or lost them."""
    client = mlflow.MlflowClient(Places.under(home).tracking)
    lost = [run.run_id for run in Client(Places.under(home)).find({"hdvae.study": "small", "hdvae.trial": "0"})]
    assert len(lost) == 2
    for run_id in lost:
        client.delete_run(run_id)
    found = read_contents(Places.under(home), "small")
    assert (found.sent, found.unsent, found.not_begun, len(found.arms)) == (10, 2, 0, 5)
    report(home)
    assert "not in MLflow</strong>: the final numbers of 2 complete runs are missing from the means" in text_of(home)


def test_a_report_is_made_again_when_something_else_is_expected(home):
    """Or when MLflow has runs that it lacked; but not for the same."""
    places = Places.under(home)
    client, record = Client(places), Records(places.database).study("small")
    study = Study.rebuilt("small", record.definition, record.plan)
    assert is_reported(client, places, study)
    expected = {"metric": "valid/elbo", "higher": {"model.latent": "normal"}, "than": {"model.latent": "categorical"}}
    assert not is_reported(client, places, study.model_copy(update={"expect": (Expectation(**expected),)}))
    assert not is_reported(client, places, study.model_copy(update={"claim": "Something else."}))
    run_id = next(client.find({"hdvae.study": "small", "hdvae.kind": "run"})).run_id
    mlflow.MlflowClient(places.tracking).delete_run(run_id)
    assert not is_reported(client, places, study)
    (home / "reports/small/report.html").unlink()
    mlflow.MlflowClient(places.tracking).restore_run(run_id)
    assert not is_reported(client, places, study)


def test_a_store_that_takes_no_artifacts_leaves_the_report(home):
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as db, db:
        db.execute("UPDATE runs SET artifact_uri = 'file:///dev/null/nowhere'")
    # In a process of its own: MLflow remembers where the artifacts of a run are.
    done = Command("report", "small", "--home", home).completed()
    assert (done.returncode, done.stdout) == (0, f"{home / 'reports/small/report.html'}\n")
    assert re.fullmatch("MLflow at .*; the report is written, but not logged; .*\n", done.stderr), done.stderr
    assert (home / "reports/small/report.html").exists()


needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium is not installed (no chromium and chromedriver)"
)


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_on_paper_it_is_black_on_white(chromium, page, dark):
    """But for the verdict; rows stay whole."""
    chromium.look(1280, dark=dark)
    chromium.driver.get(page.as_uri())
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [scheme]})
    style = "const one = getComputedStyle(document.querySelector(arguments[0])); return [one.color, one.breakInside]"
    for where in ("tbody tr", ".verdict"):
        assert chromium.driver.execute_script(style, where) == ["rgb(0, 0, 0)", "avoid"], where
    assert chromium.driver.execute_script(style, "body")[0] == "rgb(0, 0, 0)"
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_a_network(chromium, page, width, dark):
    chromium.look(width, dark=dark)
    chromium.requests()
    chromium.driver.get(page.as_uri())
    assert chromium.said() == []
    asked = chromium.requests()
    assert page.as_uri() in asked
    assert all(address.startswith(("file://", "data:")) for address in asked), asked
    assert chromium.driver.title == "small: report of a study"
    drawings = chromium.driver.find_elements("css selector", ".drawing > svg")
    pictures = chromium.driver.find_elements("css selector", ".samples img")
    assert (len(drawings), len(pictures)) == (len(FIGURES), 6)
    for one in [*drawings, *pictures]:
        assert one.size["width"] > 150
        assert one.size["height"] > 50
    broken = "return Array.from(document.images).filter((one) => !one.complete || !one.naturalWidth).length"
    assert chromium.driver.execute_script(broken) == 0
    inside = "Array.from(document.links, (one) => one.getAttribute('href')).filter((one) => one.startsWith('#'))"
    lost = f"return {inside}.filter((one) => !document.getElementById(one.slice(1)))"
    assert chromium.driver.execute_script(lost) == [], "every entry of the contents, and every link, leads somewhere"
    hints = "return Array.from(document.querySelectorAll('#arms ~ .hint')).filter((one) => !one.hidden).length"
    assert chromium.driver.execute_script(hints) == (1 if width == 390 else 0), "a wide table says that it scrolls"
    wide = "return document.documentElement.scrollWidth"
    assert chromium.driver.execute_script(wide) <= width, "the page is wider than the screen"
    ink = "return getComputedStyle(document.querySelector('.drawing text, .drawing svg')).color"
    red = int(re.search(r"\d+", chromium.driver.execute_script(ink))[0])
    assert red > 200 if dark else red < 60


def column(chromium, index):
    rows = "document.querySelectorAll('#arms ~ .scroll tbody tr')"
    keys = f"return Array.from({rows}, (row) => Number(row.cells[{index}].dataset.key))"
    return chromium.driver.execute_script(keys)


@needs_browser
def test_tables_are_sorted_by_click_and_by_keyboard(chromium, page):
    chromium.look(1280)
    chromium.driver.get(page.as_uri())
    heads = chromium.driver.find_elements("css selector", "#arms ~ .scroll th")
    assert [head.text.split("\u2009")[0] for head in heads[:2]] == ["arm", "elbo"]
    given = column(chromium, 1)
    assert given not in (sorted(given), sorted(given, reverse=True)), "sorted before anything was pressed"
    button = heads[1].find_element("css selector", "button")
    button.click()
    assert column(chromium, 1) == sorted(given)
    assert heads[1].get_attribute("aria-sort") == "ascending"
    button.send_keys("\ue007")  # Enter
    assert column(chromium, 1) == sorted(given, reverse=True)
    assert heads[1].get_attribute("aria-sort") == "descending"
    heads[0].find_element("css selector", "button").send_keys(" ")
    assert column(chromium, 0) == [0, 1, 2, 3, 4, 5]
    assert [head.get_attribute("aria-sort") for head in heads[:2]] == ["ascending", None]
    assert chromium.said() == []


def see_live_page(chromium, address):
    """A page of twelve complete runs, on a phone in the dark."""
    chromium.said()
    chromium.requests()
    chromium.look(390, dark=True)
    chromium.driver.get(address)
    wait = WebDriverWait(chromium.driver, 60)
    wait.until(lambda driver: len(driver.find_elements("css selector", "#curves .chart path[fill-opacity]")) == 6)
    assert chromium.driver.title == "100% · small"
    assert chromium.driver.find_element("id", "claim").text == CLAIM
    assert chromium.driver.find_element("id", "states").text == "12 complete"
    assert len(chromium.driver.find_elements("css selector", "#best tbody tr")) == 6
    assert chromium.driver.execute_script("return document.documentElement.scrollWidth") == 390
    chromium.driver.find_element("css selector", "#metric option[value='valid/kl']").click()
    wait.until(lambda driver: "valid/kl" in driver.find_element("css selector", "#curves .chart").text)
    assert chromium.said() == []
    assert all(asked.startswith((address.partition("/studies")[0], "data:")) for asked in chromium.requests())


def see_runs_in_mlflow(chromium, address):
    """The study's own run and its twelve, sorted by ELBO, with columns of what matters."""
    chromium.driver.get(address)
    wait = WebDriverWait(chromium.driver, 60)
    wait.until(lambda driver: "13 matching runs" in driver.find_element("css selector", "body").text)
    heads = [head.text for head in chromium.driver.find_elements("css selector", "[role=columnheader]")]
    assert {"valid/elbo", "valid/relaxation_bias", "valid/kl"} <= set(heads), heads


@needs_browser
def test_the_live_page_and_mlflow_show_the_study(chromium, finished):
    places = Places.under(finished)
    client = Client(places)
    (parent,) = client.find({"hdvae.study": "small", "hdvae.kind": "study"})
    ui = Command("ui", "small", "--home", finished)
    try:
        live = re.fullmatch(r"Live    (http://127\.0\.0\.1:\d+/studies/small)\n", ui.stdout.readline())[1]
        see_live_page(chromium, live)
        place = re.fullmatch(r"MLflow  ((http://127\.0\.0\.1:\d+)/\?token=\S+#/\S+)\n", ui.stdout.readline())
        address = place[2]
        chromium.look(2000)
        see_runs_in_mlflow(chromium, place[1])
        run = client.page(parent.run_id).replace("http://127.0.0.1:5000", address)
        chromium.driver.get(run)
        wait = WebDriverWait(chromium.driver, 60)
        wait.until(lambda driver: "small" in [head.text for head in driver.find_elements("css selector", "h1, h2")])
        chromium.driver.get(f"{run}/artifacts/report/report.html")
        wait.until(frame_to_be_available_and_switch_to_it(("css selector", "iframe")))
        wait.until(lambda driver: driver.find_element("css selector", "h1").text == "small")
        assert len(chromium.driver.find_elements("css selector", ".drawing > svg")) == len(FIGURES)
        chromium.driver.switch_to.default_content()
        errors = [one for one in chromium.said() if one["level"] == "SEVERE"]  # MLflow's table warns of its own options
        assert [one for one in errors if NO_USERS not in one["message"]] == []
        asked = chromium.requests()
        assert all(one.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")) for one in asked), asked
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(30)
