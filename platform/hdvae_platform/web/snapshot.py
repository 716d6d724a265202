"""What the live page shows of a study, as JSON-like values."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hdvae_platform.analysis.labels import label, marked
from hdvae_platform.running.status import StudyState
from hdvae_platform.search.trials import Trial
from hdvae_platform.store.best import BestTrial, best_trials
from hdvae_platform.store.feasibility import means
from hdvae_platform.store.layout import handle
from hdvae_platform.store.places import redacted
from hdvae_platform.store.records import Kind, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import in_words
from hdvae_platform.study.study import Study
from hdvae_platform.web.curves import Curve, Curves, thinned

DRAWN = 40
"""The most trials whose curves are drawn."""
POINTS = 200
"""The most points of a curve."""
BEST = 10
"""The most trials in the list of the best."""
BEATEN = 500
"""The most trials drawn beside the Pareto front."""
FAILURES = 50
"""The most runs in the list of failures."""


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        study: the study.
        state: how far it is.
        trials: its trials.
        created: when it was first launched, seconds since 1970.
        curves: what was read of its journals.
    """

    study: Study
    state: StudyState
    trials: Sequence[Trial]
    created: float
    curves: Curves

    def plain(self, metric: str) -> dict[str, Any]:
        """The study as JSON-like values, without NaN and infinities; the curves are those of one metric."""
        trials = {"done": sum(trial.state.is_terminal for trial in self.trials), "of": self.study.parameter_sets()}
        objectives = self.study.search.objectives
        return {
            **self.state.summary(),
            "begun": any(run.attempts for run, _ in self.state.runs),
            "created": self.created,
            "states": self._states(),
            "trials": trials,
            "seconds_left": self._seconds_left(),
            "constraints": in_words(self.study.search.constraints),
            "objectives": [{"metric": name, "direction": direction} for name, direction in objectives.items()],
            "measured": [{"metric": name, "limit": self._limit(name)} for name in self.study.search.measured],
            "metrics": self.curves.metrics,
            "metric": metric,
            "under_way": [self._under_way(run, params) for run, params in self._running],
            "best_trial": self._best_trial(),
            "best": [self._result(trial) for trial in self._ranked[:BEST]],
            "front": self._front(),
            "failures": self._failures(),
            "curves": self._curves(metric),
            "trained": len({run.trial for run, _ in self.state.runs if run.attempts}),
        }

    @cached_property
    def _running(self) -> list[tuple[Run, dict[str, Any]]]:
        """The runs under way; without a driver there is none."""
        if self.state.state != "running":
            return []
        return [(run, params) for run, params in self.state.runs if run.state == RunState.RUNNING]

    @cached_property
    def _best(self) -> list[BestTrial]:
        """The best trial, or the Pareto front, as everywhere else (`store.best`)."""
        return best_trials(self.study, [run for run, _ in self.state.runs])

    @cached_property
    def _ranked(self) -> list[Trial]:
        """The complete trials by the study's metric, the best trial first, then confirmed ones; infeasible ones last.

        Confirmed trials are ordered by their fresh seeds, others, and those of a search for several metrics, by the
        search.
        """
        sign = -1 if self.study.search.direction == "maximize" else 1
        fresh = {} if self.study.search.also else self._confirmed
        first = {one.number for one in self._best[:1]}
        complete = [
            (
                trial.number not in first,
                not self._is_feasible(trial.number),
                trial.number not in fresh,
                sign * fresh.get(trial.number, trial.value),
                trial.number,
                trial,
            )
            for trial in self.trials
            if trial.value is not None
        ]
        return [trial for *_, trial in sorted(complete, key=lambda one: one[:-1])]

    @cached_property
    def _confirmed(self) -> dict[int, float]:
        """The study's metric of each confirmed trial: the mean over its complete fresh seeds."""
        values: dict[int, list[float]] = {}
        for run, _ in self.state.runs:
            if run.kind == "confirmation" and run.state == RunState.COMPLETE and run.value is not None:
                values.setdefault(run.trial, []).append(run.value)
        return {trial: statistics.fmean(each) for trial, each in values.items()}

    @cached_property
    def drawn(self) -> list[Run]:
        """The runs whose curves are drawn, by trial: trials under way first, then the best, then the newest."""
        tried = sorted({run.trial for run, _ in self.state.runs if run.attempts}, reverse=True)
        running = sorted({run.trial for run, _ in self._running})
        order = dict.fromkeys([*running, *(trial.number for trial in self._ranked), *tried])
        rank = {trial: at for at, trial in enumerate(list(order)[:DRAWN])}
        found = [run for run, _ in self.state.runs if run.attempts and run.trial in rank]
        return sorted(found, key=lambda run: rank[run.trial])

    def _states(self) -> dict[str, int]:
        """How many runs are in each state; those to come wait."""
        ended = {one.lower(): self.state.count(one) for one in RunState if one.is_terminal}
        running = len(self._running)
        return {**ended, "running": running, "waiting": self.state.total - sum(ended.values()) - running}

    def _seconds_left(self) -> float | None:
        """Seconds until the last run ends, at the median pace of the runs so far; None before there is a pace."""
        paces = [pace for run in self.drawn if (pace := self.curves.of(run).pace) is not None]
        if not paces or not self._running:
            return None
        ended = sum(run.state.is_terminal for run, _ in self.state.runs)
        done = sum(self.curves.of(run).step for run, _ in self._running)
        steps = (self.state.total - ended) * self.study.experiment.training.steps - done
        return max(0.0, steps * statistics.median(paces) / len(self._running))

    def _under_way(self, run: Run, params: Mapping[str, Any]) -> dict[str, Any]:
        """A run that trains: how far it is, its last value, and its time left."""
        curve, steps = self.curves.of(run), self.study.experiment_at(params, run.kind).training.steps
        last, left = curve.last, None
        if last is not None and curve.pace is not None:
            left = max(0.0, (steps - curve.step) * curve.pace - (time.time() - last.time / 1000))
        return {
            **self._named(run, params),
            "step": curve.step,
            "steps": steps,
            "value": None if last is None else _finite(last.values[0]),
            "images_per_second": None if last is None else last.speed,
            "seconds_left": left,
        }

    def _best_trial(self) -> dict[str, Any] | None:
        """The best trial of a search for one metric, and its value: the confirmed one if there is one."""
        if self.study.search.also or not self._best:
            return None
        (best,) = self._best
        metric = self.study.search.metric
        values = best.fresh.get(metric) or best.search[metric]
        return {"trial": best.number, "value": _finite(statistics.fmean(values)), "confirmed": bool(best.fresh)}

    def _result(self, trial: Trial) -> dict[str, Any]:
        """A complete trial with its means in the search and, if it is confirmed, over the fresh seeds.

        The means are those of each metric that the search reads; None where one is not known.
        """
        values, seeds = self._means(trial.number, "search")
        confirmed, confirmations = self._means(trial.number, "confirmation")
        return {
            "trial": trial.number,
            "settings": self._label(trial.number, trial.params),
            "feasible": self._is_feasible(trial.number),
            "values": values,
            "seeds": seeds,
            "confirmed": confirmed,
            "confirmations": confirmations,
        }

    def _means(self, trial: int, kind: Kind) -> tuple[list[float | None], int]:
        """The mean of each metric that the search reads over a trial's complete runs of a kind, and their number."""
        runs = [
            run
            for run, _ in self.state.runs
            if run.trial == trial and run.kind == kind and run.state == RunState.COMPLETE
        ]
        found = means(self.study, runs)
        return [_finite(found.get(metric, math.nan)) for metric in self.study.search.measured], len(runs)

    def _limit(self, metric: str) -> str:
        """The limits of a metric in words; empty for none."""
        limits = self.study.search.constraints.get(metric)
        return "" if limits is None else limits.words

    def _front(self) -> list[dict[str, Any]]:
        """The Pareto front of a search for several metrics, then the complete trials that are not on it."""
        if not self.study.search.also:
            return []
        objectives, params = list(self.study.search.objectives), {run.trial: each for run, each in self.state.runs}
        front = {one.number: [statistics.fmean(one.search[name]) for name in objectives] for one in self._best}
        beaten = [one for one in self._ranked if one.number not in front][:BEATEN]
        values = front | {one.number: list(one.values or ()) for one in beaten}
        return [
            {
                "trial": trial,
                "settings": self._label(trial, params[trial]),
                "values": each,
                "front": trial in front,
            }
            for trial, each in values.items()
        ]

    def _failures(self) -> list[dict[str, Any]]:
        """The runs that failed, then those that were started again after a fault; of each the newest first."""
        faulty = [(run, params, run.error) for run, params in reversed(self.state.runs) if run.error]
        faulty.sort(key=lambda one: one[0].state != RunState.FAIL)
        return [
            {
                **self._named(run, params),
                "state": run.state,
                "attempts": run.attempts,
                "error": redacted(error.strip().splitlines()[-1]),
            }
            for run, params, error in faulty[:FAILURES]
        ]

    def _named(self, run: Run, params: Mapping[str, Any]) -> dict[str, Any]:
        name = handle(self.study.name, run.trial, run.seed)
        return {"handle": name, "kind": run.kind, "settings": self._label(run.trial, params)}

    def _is_feasible(self, trial: int) -> bool:
        """Whether a trial that has values keeps the constraints of the search."""
        return self.state.feasible.get(trial, True)

    def _label(self, trial: int, params: Mapping[str, Any]) -> str:
        return marked(label(params), self.state.feasible.get(trial))

    def _curves(self, metric: str) -> list[dict[str, Any]]:
        """The curves of a metric, one entry for each trial that is drawn."""
        at = self.curves.metrics.index(metric)
        settings = {run.trial: params for run, params in self.state.runs}
        found: dict[int, dict[str, Any]] = {}
        for run in self.drawn:
            one = {"trial": run.trial, "settings": self._label(run.trial, settings[run.trial]), "runs": []}
            points = _points(self.curves.of(run), at)
            shown = {"seed": run.seed, "kind": run.kind, "state": run.state, "points": points}
            found.setdefault(run.trial, one)["runs"].append(shown)
        return list(found.values())


def _points(curve: Curve, at: int) -> list[tuple[int, float]]:
    """Step and value of the reports that have a finite value of the metric at this place."""
    values = {step: point.values[at] for step, point in sorted(curve.points.items())}
    steps = [step for step, value in values.items() if math.isfinite(value)]
    return [(step, values[step]) for step in thinned(steps, POINTS)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
