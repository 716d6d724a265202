from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa

from hdvae.errors import InputError
from hdvae_platform.search.trials import optuna_storage
from hdvae_platform.store import records as module
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.database import VERSION, connect, makes_tables
from hdvae_platform.store.records import Records

CODE = {"sources": "a"}


@pytest.fixture
def records(url):
    records = Records(url)
    records.define("s", {"a": {"b": 1}}, {"seeds": [0]}, CODE)
    return records


def test_the_first_definition_stands(records):
    assert records.define("s", {"a": {"b": 2}}, {"seeds": [5]}, {}).definition == {"a": {"b": 1}}
    assert records.study("s").plan == {"seeds": [0]}


def test_plan_and_code_may_change_and_that_is_recorded(records):
    records.replan("s", {"seeds": [0]})
    records.recode("s", CODE)
    assert records.changes("s") == []
    records.replan("s", {"seeds": [0, 1]})
    records.recode("s", {"sources": "b"})
    assert (records.study("s").plan, records.study("s").code) == ({"seeds": [0, 1]}, {"sources": "b"})
    changes = [(change.what, change.before, change.after) for change in records.changes("s")]
    assert changes == [("plan", {"seeds": [0]}, {"seeds": [0, 1]}), ("code", CODE, {"sources": "b"})]


def test_a_driver_that_is_known_to_be_dead_is_not_waited_for(records):
    records.take("s", "first")
    with pytest.raises(InputError, match="being run by first"):
        records.take("s", "second", dead="another")
    records.take("s", "second", dead="first")
    assert records.study("s").driver == "second"


def test_a_replaced_driver_is_told_to_stop(records, monkeypatch):
    records.take("s", "first")
    monkeypatch.setattr(module, "EXPIRY", 0.1)
    time.sleep(0.2)
    records.take("s", "second")
    assert records.beat("s", "first")
    assert not records.beat("s", "second")


def test_unknown_study(records):
    assert records.study("t") is None
    assert [one.name for one in records.studies()] == ["s"]


def test_a_study_that_a_user_named_wrongly(records):
    assert records.known_study("s").name == "s"
    with pytest.raises(InputError, match=r"^no study ss in the study database \S+; did you mean 's'\?$"):
        records.known_study("ss")
    records.forget("s")
    with pytest.raises(InputError, match="it has no studies yet"):
        records.known_study("s")


def test_an_address_in_a_message_holds_no_password(url, monkeypatch):
    records = Records(url)
    monkeypatch.setattr(records, "_engine", sa.create_engine("postgresql+psycopg://me:secret@host/db"))
    monkeypatch.setattr(records, "study", lambda name: None)
    monkeypatch.setattr(records, "studies", list)
    with pytest.raises(InputError, match="no study s in the study database postgresql") as fault:
        records.known_study("s")
    assert "secret" not in str(fault.value)


def test_one_driver_at_a_time(records):
    records.take("s", "first")
    with pytest.raises(InputError, match="being run by first"):
        records.take("s", "second")
    assert records.study("s").driven
    records.release("s", "first")
    assert not records.study("s").driven
    records.take("s", "second")


def test_a_driver_that_died_is_replaced(records, monkeypatch):
    records.take("s", "first")
    monkeypatch.setattr(module, "EXPIRY", 0.1)
    time.sleep(0.2)
    records.take("s", "second")
    assert records.study("s").driver == "second"


def test_a_replaced_driver_does_not_release_its_successor(records, monkeypatch):
    records.take("s", "first")
    monkeypatch.setattr(module, "EXPIRY", 0.1)
    time.sleep(0.2)
    records.take("s", "second")
    records.release("s", "first")
    assert records.study("s").driver == "second"


def test_a_replaced_driver_can_change_nothing(url, monkeypatch):
    old, new, reader = (Records(url) for _ in range(3))
    old.define("s", {}, {}, {})
    old.take("s", "first")
    old.add_run("s", 0, 0)
    monkeypatch.setattr(module, "EXPIRY", -1.0)
    new.take("s", "second")
    assert reader.study("s").launch == 2
    for act in (
        lambda: old.add_run("s", 1, 0),
        lambda: old.set_run("s", 0, 0, state="FAIL"),
        lambda: old.check("s"),
    ):
        with pytest.raises(Fenced, match="study s is now run by another driver"):
            act()
    new.set_run("s", 0, 0, attempts=1)
    assert [(run.state, run.attempts) for run in reader.runs("s")] == [("WAITING", 1)]


@pytest.mark.parametrize("ahead", [31.0, 86400.0, -86400.0])
def test_the_clock_of_the_database_decides_about_leases(postgres, monkeypatch, ahead):
    """The clocks of two machines differ: neither is a live study taken, nor is a dead one held for longer."""
    url = postgres.database(f"clocks-{ahead:.0f}")
    here, there = Records(url), Records(url)
    here.define("s", {}, {}, {})

    def elsewhere(act):
        with monkeypatch.context() as patch:
            right = time.time
            patch.setattr(time, "time", lambda: right() + ahead)
            return act()

    here.take("s", "first")
    with pytest.raises(InputError, match=r"being run by first \(last heartbeat [0-5] s ago\)"):
        elsewhere(lambda: there.take("s", "second"))
    assert elsewhere(lambda: there.study("s").driven)
    here.release("s", "first")
    elsewhere(lambda: there.take("s", "second"))
    assert not elsewhere(lambda: there.beat("s", "second"))
    assert here.study("s").driven
    monkeypatch.setattr(module, "EXPIRY", 0.0)
    here.take("s", "first")
    assert here.study("s").driver == "first"


def test_a_restored_database_gives_no_launch_number_twice(url):
    """A driver from before would not be told from the new one."""
    old, new = Records(url), Records(url)
    old.define("s", {}, {}, {})
    old.take("s", "old")
    with sa.create_engine(url).begin() as db:
        db.execute(sa.text("UPDATE hdvae_studies SET launch = 0, driver = NULL"))
    new.take("s", "new")
    old.check("s")  # both have number 1
    assert new.outnumber("s", 1) == 2
    with pytest.raises(Fenced):
        old.check("s")
    assert (new.outnumber("s", 1), new.study("s").launch) == (2, 2)


def test_a_database_of_another_version_is_one_line(url):
    connect(url)
    with sa.create_engine(url).begin() as db:
        db.execute(sa.text("ALTER TABLE hdvae_studies DROP COLUMN launch"))
    with pytest.raises(InputError, match="hdvae_studies has no column launch: another version of hdvae made it"):
        connect(url)


def test_a_database_of_a_later_version_is_one_line(url):
    connect(url)
    with sa.create_engine(url).begin() as db:
        assert db.execute(sa.text("SELECT version FROM hdvae_version")).scalar_one() == VERSION
        db.execute(sa.text("UPDATE hdvae_version SET version = 7"))
    with pytest.raises(InputError, match=r"has version 7, but hdvae \S+ knows versions up to 1: use the version that"):
        connect(url)


def test_many_make_the_tables_of_a_new_database_together(url):
    """Ours and Optuna's, which no library makes in one step."""
    together = Barrier(6)

    def begin(_):
        together.wait()
        return connect(url), optuna_storage(url).get_all_studies()

    with ThreadPoolExecutor(6) as threads:
        assert [studies for _, studies in threads.map(begin, range(6))] == [[]] * 6


def test_a_fault_that_is_no_matter_of_tables_is_raised_at_once():
    tries = []

    def fail():
        tries.append(1)
        raise sa.exc.OperationalError("", None, Exception("disk I/O error"))

    with pytest.raises(sa.exc.OperationalError, match="disk"):
        makes_tables(fail)()
    assert len(tries) == 1


def test_stop_is_heard_once(records):
    records.take("s", "d")
    assert not records.beat("s", "d")
    records.ask_to_stop("s")
    assert records.beat("s", "d")
    records.release("s", "d")
    records.take("s", "d")
    assert not records.beat("s", "d")


def test_runs(records):
    records.add_run("s", 1, 0)
    records.add_run("s", 0, 5)
    records.set_run("s", 1, 0, state="FAIL", error="why")
    runs = records.runs("s")
    assert [(run.trial, run.seed, run.state, run.error) for run in runs] == [
        (0, 5, "WAITING", None),
        (1, 0, "FAIL", "why"),
    ]


def test_unreachable_database_is_one_line_without_the_password():
    with pytest.raises(InputError) as fault:
        connect("postgresql+psycopg://user:secret@127.0.0.1:1/db")
    assert "secret" not in str(fault.value)
    assert "HDVAE_STUDY_DB" in str(fault.value)
    assert "\n" not in str(fault.value)
