"""The study database: its tables, and how it is opened.

The tables stand in the same database as Optuna's, which has the trials. An Optuna trial is one parameter set; a run is
one training of it with one seed.
"""

from __future__ import annotations

import re
import time

import sqlalchemy as sa
import sqlalchemy.orm  # which SQLAlchemy imports with the first statement: threads would race for it
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from hdvae.errors import InputError
from hdvae.version import __version__
from hdvae_platform.store.places import redacted

SCHEMA = sa.MetaData()
STUDIES = sa.Table(
    "hdvae_studies",
    SCHEMA,
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("launch", sa.Integer, nullable=False, default=0),
    sa.Column("stop", sa.Boolean, nullable=False, default=False),
    sa.Column("driver", sa.String(200)),
    sa.Column("beat", sa.Float),
    sa.Column("deleting", sa.Boolean, nullable=False, default=False),
)
RUNS = sa.Table(
    "hdvae_runs",
    SCHEMA,
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
    sa.Column("summary", sa.JSON(none_as_null=True)),
    sa.Column("params", sa.JSON(none_as_null=True)),
)
CHANGES = sa.Table(
    "hdvae_changes",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.String(80), nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("what", sa.String(10), nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
)

VERSION = 1
"""The version of these tables, which the database keeps. A later one is refused; an earlier one may be read."""
VERSIONS = sa.Table("hdvae_version", SCHEMA, sa.Column("version", sa.Integer, primary_key=True))

_MADE_MEANWHILE = re.compile("already exists|UNIQUE constraint|duplicate key", re.IGNORECASE)
"""Words of databases about a table, or a row of a table of versions, that another process has just made."""


def _lost_a_race(fault: BaseException) -> bool:
    kinds = (sa.exc.IntegrityError, sa.exc.OperationalError, sa.exc.ProgrammingError)
    return isinstance(fault, kinds) and _MADE_MEANWHILE.search(str(fault)) is not None


makes_tables = retry(
    retry=retry_if_exception(_lost_a_race), wait=wait_fixed(0.1), stop=stop_after_attempt(20), reraise=True
)
"""Decorates a function that makes tables where there are none: it is called again if another process made them first.

Two people may begin their first studies on a new database together. No library makes "look for a table, else make it"
one step, so the later process fails; when it looks again, the tables are there.
"""


def connect(url: str) -> sa.Engine:
    """Open the study database; makes the tables where there are none.

    Raises:
        InputError: it cannot be reached, or another version of hdvae made its tables.
    """
    try:
        engine = sa.create_engine(url, pool_pre_ping=True)
        makes_tables(_make_tables)(engine)
        _check_version(engine, url)
        _check_columns(engine, url)
    except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as fault:
        reason = redacted(str(fault).splitlines()[0])
        raise InputError(f"study database {redacted(url)}: {reason}; check HDVAE_STUDY_DB") from None
    return engine


def _make_tables(engine: sa.Engine) -> None:
    """Make the tables where there are none, and note their version."""
    SCHEMA.create_all(engine)
    with engine.begin() as db:
        if db.execute(VERSIONS.select()).first() is None:
            db.execute(VERSIONS.insert().values(version=VERSION))


def _check_version(engine: sa.Engine, url: str) -> None:
    with engine.connect() as db:
        found = db.execute(sa.select(sa.func.max(VERSIONS.c.version))).scalar_one()
    if found > VERSION:
        raise InputError(
            f"study database {redacted(url)} has version {found}, but hdvae {__version__} knows versions up to "
            f"{VERSION}: use the version that made it"
        )


def _check_columns(engine: sa.Engine, url: str) -> None:
    """Refuse tables that another version made, which would fail later and less clearly."""
    inspector = sa.inspect(engine)
    for table in SCHEMA.sorted_tables:
        missing = {column.name for column in table.columns} - {c["name"] for c in inspector.get_columns(table.name)}
        if missing:
            raise InputError(
                f"study database {redacted(url)}: table {table.name} has no column {sorted(missing)[0]}: another "
                "version of hdvae made it; use that version, or another --home or HDVAE_STUDY_DB"
            )


def clock(engine: sa.Engine) -> float | None:
    """The time by the database server's clock, seconds since 1970; None for SQLite, which has no server."""
    if engine.dialect.name != "postgresql":
        return None
    with engine.connect() as db:
        return now(db)


def now(db: sa.Connection) -> float:
    """The time by the clock that all who use the database share, seconds since 1970.

    That is the server's. SQLite has none: there it is this machine's, on which all who use the file should be.
    """
    if db.dialect.name != "postgresql":
        return time.time()
    return float(db.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
