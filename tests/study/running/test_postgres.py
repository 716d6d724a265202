"""A study whose database is PostgreSQL, behind a real MLflow server with PostgreSQL of its own, as a team has it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from hdvae_platform.store.places import Places
from hdvae_platform.tracking.client import Client
from tests.study.helpers.commands import Command
from tests.study.helpers.mlflow_server import serving
from tests.study.helpers.outcome import wait_until

SECRET = "a-secret-word"


@pytest.fixture
def team(postgres, tmp_path):
    """The environment of a driver: study database and MLflow server."""
    store = postgres.database(f"mlflow-{uuid.uuid4().hex}")
    with serving(store, "--artifacts-destination", str(tmp_path / "artifacts")) as server:
        yield {
            "HDVAE_STUDY_DB": postgres.user(f"student-{uuid.uuid4().hex}", SECRET),
            "MLFLOW_TRACKING_URI": server.replace("//", f"//someone:{SECRET}@"),
            "HDVAE_HOME": str(tmp_path / "home"),
            "MLFLOW_STORE": store,
        }


def test_a_study_on_postgresql_and_a_server(team, edit, monkeypatch):
    for name, value in team.items():
        monkeypatch.setenv(name, value)
    file = edit({"seeds": [0], "space": {"model.latent": {"choices": ["normal", "categorical"]}}})

    def run(*arguments):
        return Command(*arguments).completed()

    done = run("study", "run", file)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    status = json.loads(run("study", "status", "small", "--json").stdout)
    assert [(row["state"], row["step"], row["attempts"]) for row in status["trials"]] == [("COMPLETE", 20, 1)] * 2
    runs = list(Client(Places.under(Path(team["HDVAE_HOME"]))).find({"hdvae.study": "small"}))
    assert [run.status for run in runs] == ["FINISHED"] * 3
    assert "latent categorical" in run("compare", "small").stdout
    said = [run(*command).stdout for command in (["study", "list"], ["study", "status", "small", "--json"])]
    written = [path.read_bytes() for path in Path(team["HDVAE_HOME"]).parent.rglob("*") if path.is_file()]
    assert len(written) > 20
    everything = [done.stdout, done.stderr, *said, *contents(team["MLFLOW_STORE"])]
    for text in [*written, *(text.encode() for text in everything)]:
        assert SECRET.encode() not in text, text


def test_a_wrong_password_is_told_in_one_line_without_it(postgres, edit, hdvae, monkeypatch):
    right = postgres.user(f"student-{uuid.uuid4().hex}", SECRET)
    monkeypatch.setenv("HDVAE_STUDY_DB", right.replace(SECRET, f"not-{SECRET}"))
    done = hdvae("study", "run", edit({}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "password authentication failed" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def contents(url: str) -> list[str]:
    """Every row of every table of a database, as text."""
    with sa.create_engine(url).connect() as db:
        tables = sa.inspect(db).get_table_names()
        rows = [str(row) for table in tables for row in db.execute(sa.text(f'SELECT * FROM "{table}"'))]
    assert len(rows) > 100
    return rows


def test_a_database_that_goes_away_ends_the_study_in_one_line(postgres, edit, places):
    """And the same command goes on when it is back."""
    url = postgres.database(f"study-{uuid.uuid4().hex}")
    environment = {"HDVAE_STUDY_DB": url, "HDVAE_HOME": str(places.home)}
    steps = {"experiment/training/steps": 1200, "experiment/evaluation/every": 40}
    file = edit({"seeds": [0], "space": {}, **steps})

    def start():
        return Command("study", "run", file, environment=environment)

    driver = start()
    try:
        wait_until(lambda: list(places.home.glob("studies/small/*/*/checkpoints/*.json")))
        postgres.kill()
        _, errors = driver.communicate(timeout=120)
    finally:
        postgres.start()
    assert (driver.returncode, errors.count("\n")) == (1, 1), errors
    assert errors.startswith("hdvae: study database postgresql+psycopg://")
    assert "run the same command again to continue once this is fixed" in errors
    out, errors = start().communicate(timeout=240)
    assert "goes on from step" in out, errors
    assert "runs 1/1" in out
