"""How often a constrained search finds its optimum: `python -m benchmarks.constraints`.

Nothing is trained: a trial has the value −(x − 0.8)² − (y − 0.8)², and x + y must be at most 1. The best feasible trial
is at x = y = 0.5, on the edge, and the best of all is infeasible. The search is that of a study, with a study database;
only its seed differs. Beside it, random search.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import Bar, report
from hdvae.errors import InputError
from hdvae_platform.search.search import Search
from hdvae_platform.store.handles import resolve
from hdvae_platform.store.records import Records
from hdvae_platform.study.file import load_study
from hdvae_platform.study.study import Study

X, Y = "training.freebits", "training.learning_rate"
"""The settings that stand for x and y."""
VALUE, SUM = "valid/elbo", "valid/kl"
"""The metrics that stand for the value and for x + y."""
PEAK, MOST = 0.8, 1.0
OPTIMUM = -2 * (PEAK - MOST / 2) ** 2
NEAR = 0.05
SEEDS, TRIALS = 20, 40
ENOUGH = 16
"""Of 20 searches with a sampler that learns, as many are to come near to the optimum."""


@dataclass(frozen=True)
class Found:
    """What one search reports as its best trial.

    Attributes:
        value: its value; None if the search reports none.
        feasible: whether it keeps the constraint.
        feasible_trials: how many trials did.
    """

    value: float | None
    feasible: bool
    feasible_trials: int

    @property
    def near(self) -> bool:
        """Whether it is feasible and near to the optimum."""
        return self.feasible and self.value is not None and self.value >= OPTIMUM - NEAR


def study(folder: Path, method: str, seed: int, trials: int) -> Study:
    """The study of a sampler seed."""
    plain: dict[str, Any] = {
        "name": "constrained",
        "claim": "A constrained search finds the best feasible trial.",
        "experiment": {
            "data": {"name": "mnist5k"},
            "model": {"layers": [{"variables": 1, "classes": 4}]},
            "training": {"steps": 1},
        },
        "space": {X: {"low": 0.0, "high": 1.0}, Y: {"low": 0.001, "high": 1.0}},
        "search": {"method": method, "trials": trials, "metric": VALUE, "constraints": {SUM: {"at_most": MOST}}},
        "seeds": [seed],
    }
    file = folder / f"{method}-{seed}.yaml"
    file.write_text(yaml.safe_dump(plain, sort_keys=False))
    return load_study(file)


def measured(params: dict[str, Any]) -> tuple[float, float]:
    """The value of a trial, and x + y."""
    return -((params[X] - PEAK) ** 2) - (params[Y] - PEAK) ** 2, params[X] + params[Y]


def search(method: str, seed: int, trials: int = TRIALS) -> Found:
    """Run one search to its end, and ask it for the best trial."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked, url = study(folder, method, seed, trials), f"sqlite:///{folder}/study.db"
        records = Records(url)
        records.define(asked.name, asked.definition(), asked.plan(), {})
        queue, params = Search(asked, url, records), {}
        while (run := queue.next()) is not None:
            params[run.trial] = run.params
            queue.finish(run.trial, run.seed, *measured(run.params))
        kept = sum(measured(one)[1] <= MOST for one in params.values())
        try:
            best = resolve(f"{asked.name}/best", records).trial
        except InputError:
            return Found(None, feasible=True, feasible_trials=kept)
        value, total = measured(params[best])
        return Found(value, total <= MOST, kept)


def searches(method: str, seeds: int) -> list[Found]:
    """Searches with different seeds, with a line of the table."""
    start = time.perf_counter()
    found = [search(method, seed) for seed in range(seeds)]
    row(method, found, time.perf_counter() - start)
    return found


def row(method: str, found: Sequence[Found], seconds: float) -> None:
    """Print a line of the table."""
    near, infeasible = sum(one.near for one in found), sum(not one.feasible for one in found)
    trials = sum(one.feasible_trials for one in found) / len(found)
    print(f"{method:8} {near:4} of {len(found)} {infeasible:17} {trials:16.1f} {seconds:9.0f} s", flush=True)


def main() -> None:
    """Run the searches, print the table and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.constraints", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["random", "tpe", "nsga2", "gp"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    print(f"{TRIALS} trials each; the best feasible value is {OPTIMUM:.2f}")
    print("method   within 0.05  infeasible best  feasible trials      time")
    bars: dict[str, Bar] = {}
    for method in options.methods:
        found = searches(method, options.seeds)
        bars[f"infeasible_best_{method}"] = {"value": sum(not one.feasible for one in found), "limit": 0}
        if method in ("tpe", "gp"):
            bars[f"near_optimum_{method}"] = {"value": sum(one.near for one in found), "limit": ENOUGH}
    report("constraints", bars)


if __name__ == "__main__":
    main()
