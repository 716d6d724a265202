"""What it costs to compare a study of 10,000 runs: `python -m benchmarks.comparison`.

A thousand runs with known numbers go into a real MLflow database, as a study leaves them, and are copied there to
make the others. Then a process of its own compares as `hdvae compare` does: a thousand, and all, in a table of ten
arms, and as JSON with every metric of every parameter set. Its time must grow no faster than the runs do, and its
memory stay small. Last, simulated studies say what pairing is worth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sqlite3
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import Bar, report
from hdvae_platform.analysis.compare import compare
from hdvae_platform.analysis.comparison import Question
from hdvae_platform.analysis.comparison_text import as_text
from hdvae_platform.analysis.inference import difference
from hdvae_platform.store.journal import Entry
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking import environment
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import Param, RunKind, Status, Tag
from hdvae_platform.tracking.study_run import run_identity, study_identity

SEEDS, WIDTHS = 5, 10
METRICS = [f"valid/{name}" for name in ("elbo", "iw_elbo", "surrogate_elbo", "relaxation_bias", "kl")]
"""Of the table; each run has more of them."""
MORE = [f"valid/kl/layer_{layer}" for layer in range(1, 26)]
PARAMS = {f"model.setting_{index}": index for index in range(50)}
FEW = 1000
COPIED: dict[str | tuple[str, str], str] = {
    "run_uuid": "substr(run_uuid, 1, 26) || printf('%06d', :number)",
    ("tags", "value"): "CASE key WHEN 'hdvae.study' THEN :study "
    "WHEN 'hdvae.trial' THEN CAST(CAST(value AS INTEGER) + :trials AS TEXT) "
    "WHEN 'hdvae.arm' THEN json_set(value, '$.\"training.freebits\"', :number + 1 + "
    "value ->> '$.\"training.freebits\"' / 1000.0) ELSE value END",
}
"""What stands in a copy of a row instead of a column, in a table or in all."""
FORMS: dict[str, dict[str, Any]] = {"table": {"by": ["model.width"], "metrics": METRICS}, "json": {"all_metrics": True}}
"""What is asked, by the form in which the answer is given."""
SLOWER, MEBIBYTES = 1.5, 300.0
"""Limits: of the time of a run of many over that of a run of few, and of the memory that many take."""


class Cost(NamedTuple):
    """What an answer takes: seconds, MiB added at most, and, to check it, its arms and the mean ELBO of the last."""

    seconds: float
    mebibytes: float
    arms: int
    mean: float


def fill(places: Places, study: str, runs: int) -> None:
    """Leave so many complete runs of a study."""
    client = Client(places)
    client.open_run(study, {}, study_identity(study), new=True)
    for index in range(runs):
        trial, seed = divmod(index, SEEDS)
        identity = run_identity(study, RunKind.SEARCH, trial, seed)
        arm = {"model.width": trial % WIDTHS, "training.freebits": trial // WIDTHS}
        tags = {Tag.ARM: json.dumps(arm), Tag.STATE: RunState.COMPLETE, Tag.DATA_CHECKSUM: "d"}
        run_id = client.open_run(f"trial {trial}", tags, identity, new=True)
        client.log_params(run_id, {**PARAMS, **arm, Param.SEED: seed})
        values = dict.fromkeys([*METRICS, *MORE], -100.0 + trial % WIDTHS + seed / 10)
        client.log_entry(run_id, Entry(10, int(1000 * time.time()), values))
        client.close_run(run_id, Status.FINISHED)


def copy(database: Path, study: str, runs: int) -> None:
    """Make a study of so many runs from that of `FEW`, row by row in MLflow's tables."""
    trials = FEW // SEEDS
    with closing(sqlite3.connect(database)) as db, db:
        of_study = "SELECT run_uuid FROM tags WHERE key = 'hdvae.study' AND value = ?"
        for number in range(runs // FEW):
            for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
                columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
                chosen = ", ".join(COPIED.get((table, column), COPIED.get(column, column)) for column in columns)
                values = {"number": number, "study": study, "trials": trials * number, "few": f"study-{FEW}"}
                rows = f"SELECT {chosen} FROM {table} WHERE run_uuid IN ({of_study.replace('?', ':few')})"
                db.execute(f"INSERT INTO {table} ({', '.join(columns)}) {rows}", values)


def measured(places: Places, study: str, form: str) -> Cost:
    """Answer once, as a command does, and write it down."""
    client = Client(places)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = compare(client, Question([study], **FORMS[form]))
    as_text(found) if form == "table" else json.dumps(found.plain(), indent=1)
    seconds = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return Cost(seconds, added, len(found.arms), statistics.fmean(found.arms[-1].values("valid/elbo")))


def apart(places: Places, study: str, form: str) -> Cost:
    """The same in a process of its own, the fastest of three."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return min(pool.submit(measured, places, study, form).result() for _ in range(3))


def simulated(studies: int = 4000, seeds: int = 5) -> dict[str, Bar]:
    """Studies of two arms with a known difference; what seeds have in common has three times the spread of the rest.

    Prints how often the 95% interval holds the difference, and how wide it is, with pairs of seeds and without.
    """
    random, apart = np.random.RandomState(0), 1.0
    found: dict[bool, list[tuple[bool, float]]] = {True: [], False: []}
    for _ in range(studies):
        common = 3 * random.normal(size=seeds)
        a, b = common + apart + random.normal(size=seeds), common + random.normal(size=seeds)
        for paired, first in ((True, 0), (False, seeds)):
            estimate = difference(dict(enumerate(a)), dict(enumerate(b, first)))
            assert estimate is not None
            interval = estimate.interval()
            assert estimate.paired == paired
            assert interval.low is not None
            assert interval.high is not None
            found[paired].append((interval.low <= apart <= interval.high, interval.high - interval.low))
    covers = {paired: statistics.fmean(held for held, _ in one) for paired, one in found.items()}
    widths = {paired: statistics.fmean(width for _, width in one) for paired, one in found.items()}
    print(f"\n| {studies:,} studies of {seeds} seeds | interval holds the difference | its width |\n|---|---:|---:|")
    for paired, name in ((True, "paired by seed"), (False, "unpaired")):
        print(f"| {name} | {100 * covers[paired]:.1f}% | {widths[paired]:.2f} nats |")
    return {
        "coverage_paired_off": {"value": round(abs(covers[True] - 0.95), 4), "limit": 0.02},
        "unpaired_over_paired_width": {"value": round(widths[False] / widths[True], 2), "limit": 1.0},
    }


def main() -> None:
    """Fill, compare, simulate, print tables, and the bars."""
    environment.configure()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help=f"more than {FEW}")
    runs = parser.parse_args().runs
    if runs <= FEW or runs % FEW:
        parser.error(f"--runs {runs}: give a multiple of {FEW} above it")
    with tempfile.TemporaryDirectory(prefix="hdvae-comparison-") as folder:
        places = Places.under(Path(folder))
        took: dict[tuple[int, str], Cost] = {}
        print("| runs | filled in | answer | made in | memory added |\n|---:|---:|---|---:|---:|")
        for count in (FEW, runs):
            start = time.perf_counter()
            if count == FEW:
                fill(places, f"study-{FEW}", FEW)
            else:
                copy(Path(folder) / "mlflow.db", f"study-{count}", count)
            filled = time.perf_counter() - start
            for form in FORMS:
                cost = took[count, form] = apart(places, f"study-{count}", form)
                mean = -91.0 + statistics.fmean(seed / 10 for seed in range(SEEDS))
                if cost[2:] != ({"table": WIDTHS, "json": count // SEEDS}[form], mean):
                    raise SystemExit(f"{count} runs: {cost.arms} arms, the mean of the last is {cost.mean}")
                print(
                    f"| {count:,} | {filled:.0f} s | {form} | {cost.seconds:.2f} s | {cost.mebibytes:.0f} MiB |",
                    flush=True,
                )
    bars: dict[str, Bar] = {}
    for form in FORMS:
        many, few = took[runs, form], took[FEW, form]
        slower = (many.seconds / runs) / (few.seconds / FEW)
        bars[f"seconds_per_run_{form}_{runs}_over_{FEW}"] = {"value": round(slower, 3), "limit": SLOWER}
        bars[f"mebibytes_{form}_{runs}"] = {"value": round(many.mebibytes, 1), "limit": MEBIBYTES}
    report("comparison", {**bars, **simulated()})


if __name__ == "__main__":
    main()
