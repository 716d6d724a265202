"""How many runs a study will have, and whether there is something left to do, without training any."""

from __future__ import annotations

import time

import pytest

from hdvae_platform.records import Records, connect
from hdvae_platform.search import Search
from hdvae_platform.status import study_status
from hdvae_platform.study import load_study

ARMS = {"space": {"training.freebits": {"choices": [1.0, 2.0, 3.0]}}}


@pytest.fixture
def begin(tmp_path, edit, monkeypatch):
    """A search on the places of a home, and the status as it is seen there."""
    from hdvae_platform.places import Places

    places = Places.under(tmp_path / "home")

    def new(changes):
        study = load_study(edit({**ARMS, **changes}))
        records = Records(connect(places.database))
        records.define(study.name, study.definition(), study.plan(), {})

        def status():
            found = study_status(places, records.study(study.name))
            return found.state, found.complete, found.pruned, found.total

        return Search(study, places.database, records), status

    return new


def finish(search, count):
    for _ in range(count):
        run = search.next()
        search.finish(run.trial, run.seed, -float(run.trial))


def test_a_study_is_finished_when_its_winners_are_confirmed(begin):
    search, status = begin({"confirm": {"top": 2, "seeds": 2}})
    assert status() == ("interrupted", 0, 0, 10)
    finish(search, 6)
    assert status() == ("interrupted", 6, 0, 10)
    finish(search, 3)
    assert status() == ("interrupted", 9, 0, 10)
    finish(search, 1)
    assert status() == ("finished", 10, 0, 10)
    assert search.total_runs() == 10


def test_a_pruned_trial_has_one_run(begin):
    search, status = begin({"search": {"pruner": "asha"}, "experiment/training/steps": 40})
    assert status() == ("interrupted", 0, 0, 6)
    first, second = search.next(), search.next()
    search.report(first.trial, first.seed, 10, -1.0)
    assert search.report(second.trial, second.seed, 10, -2.0)
    assert status() == ("interrupted", 0, 1, 5)
    search.finish(first.trial, first.seed, -1.0)
    finish(search, 3)
    assert status() == ("finished", 4, 1, 5)
    assert search.total_runs() == 5


def test_trials_that_the_hours_did_not_allow_are_not_to_come(begin, monkeypatch):
    search, status = begin({"search": {"hours": 1}})
    finish(search, 2)
    assert status() == ("interrupted", 2, 0, 6)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert search.next() is None
    assert status() == ("finished", 2, 0, 2)


def test_hours_alone_limit_a_sampled_search(begin, monkeypatch):
    search, status = begin({"search": {"method": "random", "hours": 1}})
    finish(search, 2)
    assert status()[0] == "interrupted"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert status() == ("finished", 2, 0, 2)
