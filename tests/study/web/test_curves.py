"""What is read of the journals of a study that is watched, and how often."""

from __future__ import annotations

import math

import pytest

from hdvae_platform.store.storage import Storage
from hdvae_platform.web.curves import Curves


class Counted(Storage):
    """A storage that counts what it is asked for in journals."""

    def __init__(self, root):
        super().__init__(root)
        self.listed, self.read_files = 0, 0

    def list(self, folder):
        self.listed += folder.endswith("/journal")
        return super().list(folder)

    def read(self, name):
        self.read_files += "/journal/" in name
        return super().read(name)

    def asked(self):
        """(journals listed, reports read) since the last call."""
        counts, self.listed, self.read_files = (self.listed, self.read_files), 0, 0
        return counts


@pytest.fixture
def watched(driven):
    study = driven()
    storage = Counted(study.places.storage)
    return study, storage, Curves(storage, study.study.name, ("valid/elbo", "valid/kl"))


def test_a_report_is_read_once_and_the_journal_of_an_ended_run_is_left_alone(watched):
    study, storage, curves = watched
    study.train(-3.0, -2.0)
    run = study.begin()
    study.report(run, 10, elbo=-5.0, kl=1.0)
    runs = study.records.runs("small")
    assert curves.read(runs, 100) == 0
    assert storage.asked() == (2, 3)
    assert curves.read(runs, 100) == 0
    assert storage.asked() == (1, 0), "of the run under way its list of reports alone"
    study.report(run, 20, elbo=-4.0)
    curves.read(runs, 100)
    assert storage.asked() == (1, 1)
    under_way = curves.of(runs[-1])
    assert [point.values[0] for point in under_way.points.values()] == [-5.0, -4.0]
    assert math.isnan(under_way.last.values[1])
    assert (under_way.step, under_way.pace, under_way.last.speed) == (20, 1.0, 100.0)


def test_a_damaged_report_is_left_out_and_looked_at_once(watched):
    study, storage, curves = watched
    run = study.begin()
    study.report(run, 10, elbo=-5.0)
    study.report(run, 20, elbo=-4.0)
    storage.write("small/trial-0000/seed-0/journal/000000010-0001.json", b"null")
    for asked in ((1, 2), (1, 0)):
        curves.read(study.records.runs("small"), 100)
        assert storage.asked() == asked
    assert list(curves.of(study.records.runs("small")[0]).points) == [20]


def test_runs_that_have_not_started_are_not_looked_for(watched):
    study, storage, curves = watched
    study.begin()
    assert len(study.records.runs("small")) == 2
    curves.read(study.records.runs("small"), 100)
    assert storage.asked() == (1, 0)


def test_much_is_read_in_several_turns_and_what_runs_comes_first(watched):
    study, storage, curves = watched
    study.train(-3.0, -2.0)
    study.train(-3.0, -2.0)
    run = study.begin()
    study.report(run, 10, elbo=-5.0)
    runs = study.records.runs("small")[:3]
    assert curves.read(runs, 4) == 2
    assert storage.asked() == (2, 2), "four in all"
    assert curves.of(runs[2]).step == 10
    assert curves.read(runs, 4) == 1
    assert curves.read(runs, 4) == 0
    assert [curves.of(one).step for one in runs] == [20, 20, 10]
    storage.asked()
    assert curves.read(runs, 4) == 0
    assert storage.asked() == (1, 0)


def test_what_an_older_attempt_wrote_too_late_is_dropped(watched):
    study, _, curves = watched
    first = study.begin()
    study.report(first, 10, elbo=-5.0)
    study.search.interrupt(first.trial, first.seed)
    study.search = type(study.search)(study.study, study.places.database, study.records)
    second = study.begin()
    assert (second.trial, second.seed, second.attempt) == (first.trial, first.seed, 2)
    study.report(second, 20, elbo=-4.0)
    study.report(second, 40, elbo=-3.0)
    runs = study.records.runs("small")
    curves.read(runs, 100)
    curve = curves.of(runs[0])
    assert list(curve.points) == [10, 20, 40]
    assert curve.pace == 0.5, "of the newest attempt alone"


def test_a_failed_run_that_is_tried_again_is_read_again(watched):
    study, storage, curves = watched
    run = study.begin()
    study.report(run, 10, elbo=-5.0)
    study.search.fail(run.trial, run.seed, "ValueError: no")
    curves.read(study.records.runs("small"), 100)
    study.search = type(study.search)(study.study, study.places.database, study.records, retry_failed=True)
    again = study.begin()
    assert again.attempt == 2
    study.report(again, 20, elbo=-4.0)
    storage.asked()
    (known, *_) = study.records.runs("small")
    curves.read([known], 100)
    assert curves.of(known).step == 20
