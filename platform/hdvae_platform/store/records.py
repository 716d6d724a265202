"""The study database: what each study is, and the state of each of its runs (trial × seed).

These tables stand in the same database as Optuna's, which knows the trials. An Optuna trial is one parameter
set; a run is one training of it with one seed.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
import sqlalchemy.orm  # which SQLAlchemy imports with the first statement: threads would race for it

from hdvae.errors import InputError
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.places import redacted
from hdvae_platform.store.run_state import RunState

Made = TypeVar("Made")
Kind = Literal["search", "confirmation"]

_schema = sa.MetaData()
_studies = sa.Table(
    "hdvae_studies",
    _schema,
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("launch", sa.Integer, nullable=False, default=0),
    sa.Column("stop", sa.Boolean, nullable=False, default=False),
    sa.Column("driver", sa.String(200)),
    sa.Column("beat", sa.Float),
)
_runs = sa.Table(
    "hdvae_runs",
    _schema,
    sa.Column("study", sa.String(80), primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("seed", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("value", sa.Float),
    sa.Column("also", sa.JSON, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("run_id", sa.String(64)),
    sa.Column("tracked", sa.Boolean, nullable=False, default=False),
    sa.Column("kind", sa.String(12), nullable=False, default="search"),
)
_changes = sa.Table(
    "hdvae_changes",
    _schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.String(80), nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("what", sa.String(10), nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
)

HEARTBEAT = 5.0
"""Seconds between a driver's signs of life."""
_LATE = 20
"""How often to look again for tables that other processes are making, a tenth of a second apart."""
_THERE = re.compile("already exists|UNIQUE constraint|duplicate key", re.IGNORECASE)
"""In what databases say of a table, or of a row of a table of versions, that another process made meanwhile."""
EXPIRY = 30.0
"""Seconds without one after which a driver counts as gone."""


@dataclass(frozen=True)
class Run:
    """The state of one training: a trial with one seed.

    Attributes:
        trial: Optuna's trial number.
        seed: its seed.
        state: Optuna's names for states.
        attempts: how often it was started; the number of the newest attempt, which shuts out the older ones.
        value: the last value of the tuned metric, once complete.
        also: those of the further metrics that are searched for.
        error: why it failed.
        run_id: MLflow's run.
        tracked: whether MLflow holds everything of it.
        kind: part of the search, or a winner of it on a fresh seed.
    """

    trial: int
    seed: int
    state: RunState
    attempts: int
    value: float | None
    error: str | None
    run_id: str | None
    tracked: bool
    kind: Kind = "search"
    also: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def fresh(trial: int, seed: int, kind: Kind = "search") -> Run:
        """A run that was not started yet."""
        return Run(trial, seed, RunState.WAITING, 0, None, None, None, False, kind)

    @property
    def unfinished(self) -> bool:
        """Whether it is yet to reach its end."""
        return not self.state.is_terminal


@dataclass(frozen=True)
class StudyRecord:
    """What the database knows of a study as a whole; `code` is the one it was last run with."""

    name: str
    definition: dict[str, Any]
    plan: dict[str, Any]
    code: dict[str, str]
    created: float
    launch: int
    stop: bool
    driver: str | None
    beat: float | None

    @property
    def driven(self) -> bool:
        """Whether a driver gave a sign of life of late."""
        return self.driver is not None and self.beat is not None and time.time() - self.beat < EXPIRY


@dataclass(frozen=True)
class Change:
    """A change between two launches of a study: of its `plan`, or of the `code` it is run with.

    Or one of this name was `deleted`: then `before` holds the numbers of its last launch, and of the last attempt.
    """

    time: float
    what: Literal["plan", "code", "deleted"]
    before: dict[str, Any]
    after: dict[str, Any]


def connect(url: str) -> sa.Engine:
    """Open the study database; makes the tables.

    Raises:
        InputError: it cannot be reached.
    """
    try:
        engine = sa.create_engine(url, pool_pre_ping=True)
        with_tables(lambda: _schema.create_all(engine))
        _check_columns(engine, url)
    except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as fault:
        reason = redacted(str(fault).splitlines()[0])
        raise InputError(f"study database {redacted(url)}: {reason}; check HDVAE_STUDY_DB") from None
    return engine


def with_tables(make: Callable[[], Made]) -> Made:
    """Do what makes tables where there are none; again, where another process makes the same ones at the same time.

    Two people may begin their first studies on a new database together. Looking for a table and making it is not one
    step in any of the libraries that do it, so the one that is late fails; the tables are there when it looks again.
    """
    for _ in range(_LATE):
        try:
            return make()
        except (sa.exc.IntegrityError, sa.exc.OperationalError, sa.exc.ProgrammingError) as fault:
            if not _THERE.search(str(fault)):
                raise
            time.sleep(0.1)
    return make()


def _check_columns(engine: sa.Engine, url: str) -> None:
    """Tables that another version made would fail much later, and less clearly."""
    inspector = sa.inspect(engine)
    for table in _schema.sorted_tables:
        missing = {column.name for column in table.columns} - {c["name"] for c in inspector.get_columns(table.name)}
        if missing:
            raise InputError(
                f"study database {redacted(url)}: table {table.name} has no column {sorted(missing)[0]}: another "
                "version of hdvae made it; use that version, or another --home or HDVAE_STUDY_DB"
            )


def clock(engine: sa.Engine) -> float | None:
    """Seconds since 1970 by the database server's clock; None if it has none but this machine's."""
    if engine.dialect.name != "postgresql":
        return None
    with engine.connect() as db:
        return float(db.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


class Records:
    """Reads and writes the state of studies and runs.

    Each launch of a study has a number. Once a later launch has taken the study, a driver that was thought dead can
    change nothing any more: its writes raise `Fenced`.

    Args:
        engine: from `connect`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._launches: dict[str, int] = {}
        self._attempts: dict[str, int] = {}

    def study(self, name: str) -> StudyRecord | None:
        """A study, or None if there is none of this name."""
        with self._engine.connect() as db:
            row = db.execute(_studies.select().where(_studies.c.name == name)).mappings().first()
        return None if row is None else _study(row)

    def studies(self) -> list[StudyRecord]:
        """All studies, the oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(_studies.select().order_by(_studies.c.created)).mappings().all()
        return [_study(row) for row in rows]

    def define(
        self, name: str, definition: Mapping[str, Any], plan: Mapping[str, Any], code: Mapping[str, str]
    ) -> StudyRecord:
        """Record a study, if there is none of this name; returns what is recorded."""
        row = {"definition": json.dumps(definition), "plan": json.dumps(plan), "code": json.dumps(code)}
        if self.study(name) is None:
            # Another process may be first: then its record stands.
            with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as db:
                launch = self._last(name)["launch"]
                db.execute(_studies.insert().values(name=name, created=time.time(), stop=False, launch=launch, **row))
        known = self.study(name)
        assert known is not None
        return known

    def replan(self, name: str, plan: Mapping[str, Any]) -> None:
        """Record that the plan of a study (trials, seeds, resources) changed, if it did."""
        self._change(name, "plan", plan)

    def recode(self, name: str, code: Mapping[str, str]) -> None:
        """Record that a study goes on with other code, if it does."""
        self._change(name, "code", code)

    def _change(self, name: str, what: Literal["plan", "code"], value: Mapping[str, Any]) -> None:
        known = self.study(name)
        assert known is not None
        before, after = json.dumps(getattr(known, what)), json.dumps(value)
        if before != after:
            change = {"study": name, "time": time.time(), "what": what, "before": before, "after": after}
            with self._writing(name) as db:
                db.execute(_changes.insert().values(**change))
                db.execute(_studies.update().where(_studies.c.name == name).values({what: after}))

    def changes(self, name: str) -> list[Change]:
        """How plan and code of a study changed, in order."""
        with self._engine.connect() as db:
            rows = db.execute(_changes.select().where(_changes.c.study == name).order_by(_changes.c.id)).mappings()
            return [Change(r["time"], r["what"], json.loads(r["before"]), json.loads(r["after"])) for r in rows]

    def take(self, name: str, driver: str, dead: str | None = None) -> None:
        """Become the driver of a study: the writes of this object are then those of its newest launch.

        Args:
            name: of the study.
            driver: who takes it.
            dead: a driver that is known to be no more; its lease is not waited for.

        Raises:
            InputError: another driver gave a sign of life of late.
        """
        now = time.time()
        gone = _studies.c.driver.in_([driver] if dead is None else [driver, dead])
        free = sa.or_(_studies.c.driver.is_(None), gone, _studies.c.beat < now - EXPIRY)
        with self._engine.begin() as db:
            taken = db.execute(
                _studies.update()
                .where(_studies.c.name == name, free)
                .values(driver=driver, beat=now, stop=False, launch=_studies.c.launch + 1)
            )
            launch = db.execute(sa.select(_studies.c.launch).where(_studies.c.name == name)).scalar_one()
        if taken.rowcount == 0:
            holder = self.study(name)
            assert holder is not None
            assert holder.beat is not None
            raise InputError(
                f"study {name} is being run by {holder.driver} (last seen {now - holder.beat:.0f} s ago): "
                f"stop it with `hdvae study stop {name}`, or wait {EXPIRY:.0f} s if it died"
            )
        self._launches[name] = launch

    def check(self, name: str) -> None:
        """See that no later launch has taken the study.

        Raises:
            Fenced: one has.
        """
        with self._writing(name):
            pass

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[sa.Connection]:
        """A transaction on a study that this object's launch still holds, if it took it.

        The study's row is written first, which locks it: no other launch can come in between.
        """
        with self._engine.begin() as db:
            if name in self._launches:
                mine = (_studies.c.name == name, _studies.c.launch == self._launches[name])
                held = db.execute(_studies.update().where(*mine).values(launch=_studies.c.launch))
                if held.rowcount == 0:
                    raise Fenced(f"study {name} is run by another driver, which took it from this one")
            yield db

    def forget(self, name: str) -> None:
        """Delete all that is known of a study.

        Raises:
            Fenced: a later launch has taken it.
        """
        known = self.study(name)
        assert known is not None
        attempts = max([self._last(name)["attempts"], *(run.attempts for run in self.runs(name))])
        last = {"launch": known.launch, "attempts": attempts}
        with self._writing(name) as db:
            for table, column in ((_runs, _runs.c.study), (_changes, _changes.c.study), (_studies, _studies.c.name)):
                db.execute(table.delete().where(column == name))
            row = {"time": time.time(), "what": "deleted", "before": json.dumps(last), "after": json.dumps({})}
            db.execute(_changes.insert().values(study=name, **row))

    def _last(self, name: str) -> Mapping[str, int]:
        """The numbers of the last launch, and of the last attempt, of deleted studies of a name.

        A new one counts on from them: a process that outlived the deletion must not take its numbers for its own.
        """
        deleted = [change.before for change in self.changes(name) if change.what == "deleted"]
        return deleted[-1] if deleted else {"launch": 0, "attempts": 0}

    def last_attempt_of_deleted(self, name: str) -> int:
        """The number from which attempts at the runs of a study count on; 0 if no study of this name was deleted."""
        return self._last(name)["attempts"]

    def beat(self, name: str, driver: str) -> bool:
        """Give a sign of life; returns whether to stop: it was asked for, or another driver has taken over."""
        with self._engine.begin() as db:
            given = db.execute(
                _studies.update().where(_studies.c.name == name, _studies.c.driver == driver).values(beat=time.time())
            )
            stop = db.execute(sa.select(_studies.c.stop).where(_studies.c.name == name)).scalar_one_or_none()
        return bool(stop) or given.rowcount == 0

    def release(self, name: str, driver: str) -> None:
        """Stop being the driver."""
        with self._engine.begin() as db:
            db.execute(
                _studies.update()
                .where(_studies.c.name == name, _studies.c.driver == driver)
                .values(driver=None, beat=None, stop=False)
            )

    def ask_to_stop(self, name: str) -> None:
        """Ask the driver of a study to stop it, resumably."""
        with self._engine.begin() as db:
            db.execute(_studies.update().where(_studies.c.name == name).values(stop=True))

    def runs(self, name: str) -> list[Run]:
        """All runs of a study, by trial and seed."""
        query = _runs.select().where(_runs.c.study == name).order_by(_runs.c.trial, _runs.c.seed)
        with self._engine.connect() as db:
            rows = db.execute(query).mappings().all()
        return [_run(row) for row in rows]

    def add_run(self, name: str, trial: int, seed: int, kind: Kind = "search") -> Run:
        """Add a run that waits to be started, and return it.

        Raises:
            Fenced: a later launch has taken the study.
        """
        if name not in self._attempts:
            self._attempts[name] = self._last(name)["attempts"]
        run = replace(Run.fresh(trial, seed, kind), attempts=self._attempts[name])
        with self._writing(name) as db:
            db.execute(_runs.insert().values(study=name, **_plain(vars(run))))
        return run

    def set_run(self, name: str, trial: int, seed: int, **values: Any) -> None:
        """Change columns of a run.

        Raises:
            Fenced: a later launch has taken the study.
        """
        at = (_runs.c.study == name, _runs.c.trial == trial, _runs.c.seed == seed)
        with self._writing(name) as db:
            db.execute(_runs.update().where(*at).values(**_plain(values)))


def _run(row: Mapping[Any, Any]) -> Run:
    values = {key: value for key, value in row.items() if key != "study"}
    return Run(**{**values, "state": RunState(values["state"])})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as databases take them: a member of an enumeration is not quite a text."""
    return {key: str(value) if isinstance(value, RunState) else value for key, value in values.items()}


def _study(row: Mapping[Any, Any]) -> StudyRecord:
    values = dict(row)
    values |= {key: json.loads(row[key]) for key in ("definition", "plan", "code")}
    return StudyRecord(**values)
