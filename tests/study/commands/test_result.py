"""The verdicts at the end of `hdvae study run`, in the report and in MLflow, and the looks that they make."""

from __future__ import annotations

import json

import pytest

from hdvae_platform.commands.study.result import result_of
from hdvae_platform.commands.study.status import _look
from hdvae_platform.report.reading import read_contents
from hdvae_platform.running.descriptions import study_summary
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import Tag

EXPECT = {"metric": "valid/elbo", "higher": {"training.freebits": 1.0}, "than": {"training.freebits": 2.0}}


@pytest.fixture
def trained(places, edit):
    """Makes a study with so many seeds, as if they had been trained, and continues it with more."""
    choices = {"training.freebits": {"choices": [1.0, 2.0]}}
    client, there = Client(places), set()

    def train(seeds):
        study = load_study(edit({"space": choices, "expect": [EXPECT], "seeds": list(range(seeds))}))
        records = Records(places.database)
        records.define(study.name, {**study.definition(), "data_checksum": "0"}, study.plan(), {})
        records.replan(study.name, study.plan())
        for trial, params in enumerate(study.grid()):
            for seed in set(study.seeds) - {one for at, one in there if at == trial}:
                tags = {"hdvae.study": study.name, "hdvae.kind": "run", "hdvae.trial": str(trial)}
                tags |= {"hdvae.seed": str(seed), "hdvae.state": "COMPLETE", "hdvae.arm": json.dumps(params)}
                run_id = client.open_run("a", tags, {"hdvae.trial": str(trial), "hdvae.seed": str(seed)}, new=True)
                client._client.log_metric(run_id, "valid/elbo", -100.0 - 5.0 * trial - 0.1 * seed * trial)
                there.add((trial, seed))
        return study

    return train


def numbers(study, places, finished=True):
    (verdict,) = result_of(study, places, Client(places), finished=finished).document["answers"][0]["verdicts"]
    return verdict["look"], verdict["level"], verdict["answer"]


def test_every_place_that_shows_a_verdict_makes_the_same_look(trained, places):
    storage = Storage(places.storage)
    study = trained(2)
    assert numbers(study, places) == (None, None, "inconclusive")
    assert storage.list("small/looks") == [], "without a test there was nothing to see"
    study = trained(3)
    assert numbers(study, places) == numbers(study, places) == (1, 0.025, "supported")
    assert "look 1, at level 2.5%" in study_summary(Client(places), study, storage, [])[Tag.DESCRIPTION]
    assert read_contents(places, study.name).verdicts[0].look.number == 1
    study = trained(5)
    text = result_of(study, places, Client(places), finished=True).text
    assert "5 pairs of seeds; p = " in text
    assert text.endswith("look 2, at level 0.833%")
    assert read_contents(places, study.name).verdicts[0].look.number == 2
    assert "look 2, at level 0.833%" in study_summary(Client(places), study, storage, [])[Tag.DESCRIPTION]


def test_status_lists_the_looks(trained, places, hdvae):
    study = trained(3)
    numbers(study, places)
    shown = hdvae("study", "status", "small")
    assert shown.stdout.endswith(
        "look 1, seeds 0, 1, 2: valid/elbo is higher with freebits 1.0 than with freebits 2.0\n"
    )
    (look,) = json.loads(hdvae("study", "status", "small", "--json").stdout)["looks"]
    assert (look["number"], look["seeds"], len(look["runs"])) == (1, [0, 1, 2], 6)
    assert _look(look) in shown.stdout


def test_an_interruption_makes_no_look(trained, places):
    study = trained(3)
    result = result_of(study, places, Client(places), finished=False)
    assert result.document["answers"][0]["verdicts"] == []
    assert result.text.endswith("than with freebits 2.0\nnot tested before the study is finished")
    assert Storage(places.storage).list("small/looks") == []


def test_a_look_that_cannot_be_numbered_is_not_shown(trained, places, monkeypatch):
    def away(self, folder):
        raise StorageAway("away")

    monkeypatch.setattr(Storage, "list", away)
    with pytest.raises(StorageAway):
        numbers(trained(3), places)


def test_the_looks_are_deleted_with_the_study(trained, places, hdvae):
    numbers(trained(3), places)
    assert Storage(places.storage).list("small/looks")
    done = hdvae("study", "delete", "small", "--yes")
    assert done.returncode == 0, done.stderr
    assert Storage(places.storage).list("small/looks") == []
