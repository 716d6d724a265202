"""The kept result of a finished study, which is shown only while nothing that it depends on has changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hdvae_platform.running.finished import Result, keep_result, kept_result
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import REPORT_PAGE, RESULT, report_folder
from hdvae_platform.store.records import Records
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking import provenance

RESULT_OF_SMALL = Result("a table", {"arms": [1.5, float("inf")]})


@pytest.fixture
def study(places, study_file):
    """A study that is recorded as finished, with a report and a kept result."""
    study = load_study(study_file)
    records = Records(places.database)
    checksum = load_data(study.experiment, places.home).checksum
    records.define(study.name, {**study.definition(), "data_checksum": checksum}, study.plan(), provenance.code())
    records.add_run(study.name, 0, 0)
    records.set_run(study.name, 0, 0, state=RunState.COMPLETE, value=-1.5, tracked=True, also={"valid/kl": 1.0})
    report_folder(places.home, study.name).mkdir(parents=True)
    (report_folder(places.home, study.name) / REPORT_PAGE).write_text("")
    keep_result(study, places, RESULT_OF_SMALL)
    return study


def test_the_result_is_kept_with_the_runs(study, places):
    kept = kept_result(study, places)
    assert kept.result == RESULT_OF_SMALL
    assert [(run.trial, run.seed, run.state, run.value) for run in kept.runs] == [(0, 0, RunState.COMPLETE, -1.5)]


def test_a_study_without_a_kept_result(places, study_file):
    before = sorted(places.home.rglob("*"))
    assert kept_result(load_study(study_file), places) is None
    assert sorted(places.home.rglob("*")) == before, "it was only looked at"


@pytest.mark.parametrize(
    "changes",
    [{"claim": "Another."}, {"seeds": [0, 1, 2]}, {"experiment/training/steps": 30}, {"resources": {"concurrent": 1}}],
    ids=str,
)
def test_another_study_file(study, places, edit, changes):
    assert kept_result(load_study(edit(changes)), places) is None


def test_other_images(study, places, study_file, images):
    assert kept_result(load_study(study_file), places) is not None
    np.savez(study_file.parent / "images.npz", **{**images, "train": 1 - images["train"]})
    assert kept_result(load_study(study_file), places) is None


def test_other_code(study, places, monkeypatch):
    monkeypatch.setattr(provenance, "code", lambda: {"version": "1", "sources": "other"})
    assert kept_result(study, places) is None


@pytest.mark.parametrize("change", [{"value": -2.5}, {"state": RunState.WAITING}, {"tracked": False}], ids=str)
def test_other_runs(study, places, change):
    Records(places.database).set_run(study.name, 0, 0, **change)
    assert kept_result(study, places) is None


def test_a_run_more(study, places):
    Records(places.database).add_run(study.name, 0, 1)
    assert kept_result(study, places) is None


def test_another_plan_or_code_on_record(study, places):
    records = Records(places.database)
    records.replan(study.name, {**study.plan(), "seeds": [0, 1, 2]})
    assert kept_result(study, places) is None
    records.replan(study.name, study.plan())
    assert kept_result(study, places) is not None
    records.recode(study.name, {**provenance.code(), "sources": "other"})
    assert kept_result(study, places) is None


def test_a_study_of_the_same_name_after_a_deletion(study, places):
    records = Records(places.database)
    record, (run,) = records.study(study.name), records.runs(study.name)
    records.forget(study.name)
    assert kept_result(study, places) is None
    records.define(study.name, record.definition, record.plan, record.code)
    records.add_run(study.name, 0, 0)
    records.set_run(study.name, 0, 0, state=run.state, value=run.value, tracked=True, also=dict(run.also), attempts=0)
    assert records.runs(study.name) == [run]
    assert kept_result(study, places) is None


def test_another_server_or_storage(study, places):
    assert kept_result(study, dataclasses.replace(places, tracking="http://127.0.0.1:5000")) is None
    assert kept_result(study, dataclasses.replace(places, storage="s3://bucket/elsewhere")) is None


@pytest.mark.parametrize("file", [REPORT_PAGE, RESULT])
def test_a_file_that_was_deleted(study, places, file):
    (report_folder(places.home, study.name) / file).unlink()
    assert kept_result(study, places) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "0"}', "\x80"])
def test_a_damaged_file(study, places, text):
    (report_folder(places.home, study.name) / RESULT).write_text(text, encoding="latin-1")
    assert kept_result(study, places) is None


def test_a_result_with_another_digit(study, places):
    file = report_folder(places.home, study.name) / RESULT
    file.write_bytes(file.read_bytes().replace(b"1.5", b"1.6"))
    assert kept_result(study, places) is None
