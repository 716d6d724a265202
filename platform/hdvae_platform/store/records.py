"""What the study database knows: each study, the state of each of its runs (trial × seed), and who drives it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa

from hdvae.errors import InputError, nearest
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.database import CHANGES, RUNS, STUDIES, connect, now
from hdvae_platform.store.places import redacted
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.study import Study

Kind = Literal["search", "confirmation"]
"""Why a run is trained: for the search, or to confirm one of its best trials on a fresh seed."""

HEARTBEAT = 5.0
"""Seconds between two heartbeats of a driver."""
EXPIRY = 30.0
"""Seconds without a heartbeat after which a driver counts as dead."""


@dataclass(frozen=True)
class Run:
    """The state of one run: a trial with one seed.

    Attributes:
        trial: Optuna's number of the trial.
        seed: the seed.
        state: where the run stands.
        attempts: the number of its newest attempt, which shuts out the older ones.
        value: the last value of the study's metric; None before the run is complete.
        also: the last values of the further metrics that the study optimises.
        error: why the run failed.
        run_id: of the run in MLflow.
        tracked: whether MLflow has everything about the run.
        kind: why the run is trained.
        params: the parameters of its trial: dotted paths into the experiment → values.
        summary: how far it came (`store.run_summary.RunSummary`, as JSON-like values); None before it has ended.
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
    params: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None

    @staticmethod
    def fresh(trial: int, seed: int, kind: Kind = "search", params: Mapping[str, Any] | None = None) -> Run:
        """A run that has not started yet."""
        return Run(trial, seed, RunState.WAITING, 0, None, None, None, False, kind, params=params)

    @property
    def unfinished(self) -> bool:
        """Whether the run has not reached a terminal state."""
        return not self.state.is_terminal


@dataclass(frozen=True)
class StudyRecord:
    """A study as the database had it when it was read.

    Attributes:
        name: of the study.
        definition: `Study.definition`, and the checksum of the data.
        plan: `Study.plan` of the latest launch.
        code: versions and checksums of the code of the latest launch.
        created: when the study was first launched, seconds since 1970.
        launch: the number of the latest launch.
        stop: whether its driver was asked to stop.
        driver: the process that drives the study; None if none does.
        beat: its last heartbeat, seconds since 1970 by the clock of the database.
        driven: whether the last heartbeat was recent when this was read.
        deleting: whether its deletion has begun; then the next `study delete` or `study run` ends it.
    """

    name: str
    definition: dict[str, Any]
    plan: dict[str, Any]
    code: dict[str, str]
    created: float
    launch: int
    stop: bool
    driver: str | None
    beat: float | None
    driven: bool
    deleting: bool = False

    def as_study(self) -> Study:
        """The study itself, rebuilt from definition and plan."""
        return Study.rebuilt(self.name, self.definition, self.plan)


@dataclass(frozen=True)
class Change:
    """What changed between two launches: the study's `plan`, its `code`, or that a study of this name was `deleted`.

    After a deletion `before` holds the numbers of the last `launch` and of the last of all `attempts`.
    """

    time: float
    what: Literal["plan", "code", "deleted"]
    before: dict[str, Any]
    after: dict[str, Any]


class Records:
    """The study database, opened: reads and writes the state of studies and runs.

    Each launch of a study has a number. Once a later launch has taken the study, the driver of an earlier one, which
    was believed dead, can change nothing any more: its writes raise `Fenced`.

    Args:
        url: SQLAlchemy URL of the study database.

    Raises:
        InputError: the database cannot be reached, or another version made its tables.
    """

    def __init__(self, url: str) -> None:
        self._engine = connect(url)
        self._launches: dict[str, int] = {}
        self._attempts: dict[str, int] = {}

    def study(self, name: str) -> StudyRecord | None:
        """A study, or None if there is none of this name."""
        with self._engine.connect() as db:
            row = db.execute(STUDIES.select().where(STUDIES.c.name == name)).mappings().first()
            return None if row is None else _study(row, now(db))

    def known_study(self, name: str) -> StudyRecord:
        """A study that a user has named.

        Raises:
            InputError: there is none of this name; names the nearest.
        """
        record = self.study(name)
        if record is None:
            names = [one.name for one in self.studies()]
            hint = nearest(name, names) if names else "; it has no studies yet"
            address = redacted(self._engine.url.render_as_string())
            raise InputError(f"no study {name} in the study database {address}{hint}")
        return record

    def studies(self) -> list[StudyRecord]:
        """All studies, the oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(STUDIES.select().order_by(STUDIES.c.created)).mappings().all()
            time = now(db)
        return [_study(row, time) for row in rows]

    def define(
        self, name: str, definition: Mapping[str, Any], plan: Mapping[str, Any], code: Mapping[str, str]
    ) -> StudyRecord:
        """Record a study unless there is one of this name; returns what the database has."""
        row = {"definition": json.dumps(definition), "plan": json.dumps(plan), "code": json.dumps(code)}
        if self.study(name) is None:
            # Another process may be first: then its record stands.
            with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as db:
                launch = self._last(name)["launch"]
                db.execute(STUDIES.insert().values(name=name, created=now(db), stop=False, launch=launch, **row))
        known = self.study(name)
        assert known is not None
        return known

    def replan(self, name: str, plan: Mapping[str, Any]) -> None:
        """Record a plan (trials, seeds, resources, …), and the change if it differs from the recorded one."""
        self._change(name, "plan", plan)

    def recode(self, name: str, code: Mapping[str, str]) -> None:
        """Record the code of this launch, and the change if it differs from the recorded one."""
        self._change(name, "code", code)

    def _change(self, name: str, what: Literal["plan", "code"], value: Mapping[str, Any]) -> None:
        known = self.study(name)
        assert known is not None
        before, after = json.dumps(getattr(known, what)), json.dumps(value)
        if before != after:
            with self._writing(name) as db:
                change = {"study": name, "time": now(db), "what": what, "before": before, "after": after}
                db.execute(CHANGES.insert().values(**change))
                db.execute(STUDIES.update().where(STUDIES.c.name == name).values({what: after}))

    def changes(self, name: str) -> list[Change]:
        """The changes of a study between its launches, the oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(CHANGES.select().where(CHANGES.c.study == name).order_by(CHANGES.c.id)).mappings()
            return [Change(r["time"], r["what"], json.loads(r["before"]), json.loads(r["after"])) for r in rows]

    def take(self, name: str, driver: str, dead: str | None = None) -> None:
        """Become the driver of a study: from now on this object writes as its newest launch.

        Args:
            name: of the study.
            driver: the process that takes it.
            dead: a driver whose process is known to have ended; its lease may be taken before it expires.

        Raises:
            InputError: another driver holds the study: its last heartbeat was recent.
        """
        gone = STUDIES.c.driver.in_([driver] if dead is None else [driver, dead])
        with self._engine.begin() as db:
            time = now(db)
            free = sa.or_(STUDIES.c.driver.is_(None), gone, STUDIES.c.beat < time - EXPIRY)
            taken = db.execute(
                STUDIES.update()
                .where(STUDIES.c.name == name, free)
                .values(driver=driver, beat=time, stop=False, launch=STUDIES.c.launch + 1)
            )
            launch = db.execute(sa.select(STUDIES.c.launch).where(STUDIES.c.name == name)).scalar_one()
        if taken.rowcount == 0:
            holder = self.study(name)
            assert holder is not None
            assert holder.beat is not None
            raise InputError(
                f"study {name} is being run by {holder.driver} (last heartbeat {time - holder.beat:.0f} s ago): "
                f"stop it with `hdvae study stop {name}`, or wait {EXPIRY:.0f} s if it died"
            )
        self._launches[name] = launch

    def outnumber(self, name: str, launch: int) -> int:
        """Number this launch above an earlier one that the database has forgotten, since it was restored from a backup.

        Args:
            name: of the study, which this object has taken.
            launch: the number of the latest launch that is known elsewhere.

        Returns:
            The number of this launch.

        Raises:
            Fenced: a later launch has taken the study.
        """
        if launch >= self._launches[name]:
            with self._writing(name) as db:
                db.execute(STUDIES.update().where(STUDIES.c.name == name).values(launch=launch + 1))
            self._launches[name] = launch + 1
        return self._launches[name]

    def begin_deletion(self, name: str) -> None:
        """Record that a study is being deleted, until `forget`.

        Raises:
            Fenced: a later launch has taken it.
        """
        with self._writing(name) as db:
            db.execute(STUDIES.update().where(STUDIES.c.name == name).values(deleting=True))

    def check(self, name: str) -> None:
        """Check that no later launch has taken the study.

        Raises:
            Fenced: a later launch has taken it.
        """
        with self._writing(name):
            pass

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[sa.Connection]:
        """A transaction on a study; if this object has taken the study, its launch must still be the newest.

        The study's row is written first, which locks it: no other launch can come in between.
        """
        with self._engine.begin() as db:
            if name in self._launches:
                mine = (STUDIES.c.name == name, STUDIES.c.launch == self._launches[name])
                held = db.execute(STUDIES.update().where(*mine).values(launch=STUDIES.c.launch))
                if held.rowcount == 0:
                    raise Fenced(f"study {name} is now run by another driver, which has taken it over from this one")
            yield db

    def forget(self, name: str) -> None:
        """Delete all records of a study; only the numbers of its last launch and attempt stay.

        Raises:
            Fenced: a later launch has taken it.
        """
        known = self.study(name)
        assert known is not None
        attempts = max([self._last(name)["attempts"], *(run.attempts for run in self.runs(name))])
        last = {"launch": known.launch, "attempts": attempts}
        with self._writing(name) as db:
            for table, column in (
                (RUNS, RUNS.c.study),
                (CHANGES, CHANGES.c.study),
                (STUDIES, STUDIES.c.name),
            ):
                db.execute(table.delete().where(column == name))
            row = {"time": now(db), "what": "deleted", "before": json.dumps(last), "after": json.dumps({})}
            db.execute(CHANGES.insert().values(study=name, **row))

    def _last(self, name: str) -> Mapping[str, int]:
        """The numbers of the last launch and of the last attempt of deleted studies of a name.

        A new study counts on from them, so that a process that outlived the deletion does not have its numbers.
        """
        deleted = [change.before for change in self.changes(name) if change.what == "deleted"]
        return deleted[-1] if deleted else {"launch": 0, "attempts": 0}

    def last_attempt_of_deleted(self, name: str) -> int:
        """The attempt from which a study of this name counts on; 0 if none of this name was deleted."""
        return self._last(name)["attempts"]

    def beat(self, name: str, driver: str) -> bool:
        """Record a heartbeat; returns whether to stop: a user asked for it, or another driver has taken over."""
        with self._engine.begin() as db:
            mine = (STUDIES.c.name == name, STUDIES.c.driver == driver)
            given = db.execute(STUDIES.update().where(*mine).values(beat=now(db)))
            stop = db.execute(sa.select(STUDIES.c.stop).where(STUDIES.c.name == name)).scalar_one_or_none()
        return bool(stop) or given.rowcount == 0

    def release(self, name: str, driver: str) -> None:
        """Stop being the driver."""
        with self._engine.begin() as db:
            db.execute(
                STUDIES.update()
                .where(STUDIES.c.name == name, STUDIES.c.driver == driver)
                .values(driver=None, beat=None, stop=False)
            )

    def ask_to_stop(self, name: str) -> None:
        """Ask the driver of a study to stop; the study can be resumed."""
        with self._engine.begin() as db:
            db.execute(STUDIES.update().where(STUDIES.c.name == name).values(stop=True))

    def runs(self, name: str) -> list[Run]:
        """All runs of a study, by trial and seed."""
        query = RUNS.select().where(RUNS.c.study == name).order_by(RUNS.c.trial, RUNS.c.seed)
        with self._engine.connect() as db:
            rows = db.execute(query).mappings().all()
        return [_run(row) for row in rows]

    def fresh_run(
        self, name: str, trial: int, seed: int, kind: Kind = "search", params: Mapping[str, Any] | None = None
    ) -> Run:
        """A run that is not recorded yet; the numbers of its attempts go on from those of deleted studies."""
        if name not in self._attempts:
            self._attempts[name] = self._last(name)["attempts"]
        return replace(Run.fresh(trial, seed, kind, params), attempts=self._attempts[name])

    def add_run(
        self, name: str, trial: int, seed: int, kind: Kind = "search", params: Mapping[str, Any] | None = None
    ) -> Run:
        """Record a run in state WAITING, and return it.

        Raises:
            Fenced: a later launch has taken the study.
        """
        run = self.fresh_run(name, trial, seed, kind, params)
        with self._writing(name) as db:
            db.execute(RUNS.insert().values(study=name, **_plain(vars(run))))
        return run

    def set_run(self, name: str, trial: int, seed: int, **values: Any) -> None:
        """Change columns of a run.

        Raises:
            Fenced: a later launch has taken the study.
        """
        at = (RUNS.c.study == name, RUNS.c.trial == trial, RUNS.c.seed == seed)
        with self._writing(name) as db:
            db.execute(RUNS.update().where(*at).values(**_plain(values)))


def _run(row: Mapping[Any, Any]) -> Run:
    values = {key: value for key, value in row.items() if key != "study"}
    return Run(**{**values, "state": RunState(values["state"])})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as databases take them: a member of `RunState` becomes a plain text."""
    return {key: str(value) if isinstance(value, RunState) else value for key, value in values.items()}


def _study(row: Mapping[Any, Any], time: float) -> StudyRecord:
    values = dict(row)
    values |= {key: json.loads(row[key]) for key in ("definition", "plan", "code")}
    values["driven"] = row["driver"] is not None and row["beat"] is not None and time - row["beat"] < EXPIRY
    return StudyRecord(**values)
