"""Comparison of a study's arms, from what MLflow holds.

An arm is what was varied; its runs differ by seed. Only complete runs enter means; failed and pruned ones are
counted beside them. Runs that confirm the winners of a search stand apart, since those were chosen for high values.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from hdvae.errors import InputError, nearest
from hdvae_platform.text import markdown, table
from hdvae_platform.tracking import Client, TrackedRun

SHOWN = ("elbo", "iw_elbo", "surrogate_elbo", "relaxation_bias", "kl")
"""The metrics of the printed table, under `valid/`."""
DIFFERENCES = ("valid/elbo", "valid/relaxation_bias")
"""The metrics of which differences are shown when none is asked for."""
CONFIDENCE = 0.95
LARGE = 1e5
"""From here on hundredths of a nat are no news."""


@dataclass
class Arm:
    """The complete runs that share the varied settings.

    Attributes:
        arm: dotted path → value.
        runs: complete runs, by seed.
        pruned: how many were pruned.
        failed: how many failed.
    """

    arm: dict[str, Any]
    runs: list[TrackedRun] = field(default_factory=list)
    pruned: int = 0
    failed: int = 0

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return [int(run.tags["hdvae.seed"]) for run in self.runs]

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it, in the order of the seeds."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric by seed; empty where a seed stands twice, since nothing can then be paired."""
        if len(set(self.seeds)) != len(self.seeds):
            return {}
        return {s: run.metrics[metric] for s, run in zip(self.seeds, self.runs, strict=True) if metric in run.metrics}

    def metrics(self) -> list[str]:
        """Every metric that a run has."""
        return sorted({metric for run in self.runs for metric in run.metrics})


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval; the limits are None where one value leaves them open."""

    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float]) -> Interval:
    """Student's interval for the mean of independent values.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484..., high=4.484...)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[Interval, bool] | None:
    """Mean of a − b over seeds, paired where the arms have the same seeds, else Welch's; None without values."""
    if not a or not b:
        return None
    if set(a) == set(b):
        return interval([a[seed] - b[seed] for seed in sorted(a)]), True
    mean = statistics.fmean(a.values()) - statistics.fmean(b.values())
    if min(len(a), len(b)) < 2:
        return Interval(mean, None, None), False
    test = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
    limits = test.confidence_interval(CONFIDENCE)
    return Interval(mean, float(limits.low), float(limits.high)), False


def arms(client: Client, studies: Sequence[str], by: Sequence[str] = ()) -> list[Arm]:
    """The arms of one or more studies.

    Args:
        client: MLflow.
        studies: names.
        by: dotted paths to group by; by default everything that the study varied.

    Raises:
        InputError: a study is unknown to MLflow, or none of its runs is complete; a path no run has.
    """
    found: dict[str, Arm] = {}
    for study in studies:
        runs = list(client.find({"hdvae.study": study, "hdvae.kind": "run"}))
        if not runs:
            raise InputError(f"no study {study} in MLflow at {client.address}{_near_studies(client, study)}")
        runs.sort(key=lambda run: (int(run.tags["hdvae.trial"]), int(run.tags["hdvae.seed"])))
        for run in runs:
            key = _arm_of(run, by) | ({"study": study} if len(studies) > 1 else {})
            _add(found.setdefault(json.dumps(key, sort_keys=True), Arm(key)), run)
    result = list(found.values())
    if not any(arm.runs for arm in result):
        raise InputError(f"no run of {', '.join(studies)} is complete yet: `hdvae study status {studies[0]}`")
    return result


@dataclass(frozen=True)
class Confirmation:
    """A winner of a search, and what it is worth on seeds that the search had not seen.

    Attributes:
        study: of which.
        trial: its number.
        arm: dotted path → value.
        metric: what the search was for.
        search: the mean over the seeds of the search.
        seeds: the fresh ones.
        values: the metric of each.
        run_ids: MLflow's.
        sign: 1 if the metric was maximised, −1 if minimised.
    """

    study: str
    trial: int
    arm: dict[str, Any]
    metric: str
    search: float
    seeds: list[int]
    values: list[float]
    run_ids: list[str]
    sign: int

    @property
    def confirmed(self) -> Interval:
        """The mean over the fresh seeds."""
        return interval(self.values)

    @property
    def shrinkage(self) -> float:
        """By how much the search promised too much: what was luck in its choice."""
        return self.sign * (self.search - self.confirmed.mean)

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        kept = {key: value for key, value in vars(self).items() if key not in ("values", "sign")}
        return {**kept, "confirmed": {**vars(self.confirmed), "values": self.values}, "shrinkage": self.shrinkage}


def confirmations(client: Client, studies: Sequence[str]) -> list[Confirmation]:
    """The confirmed winners of the studies, each study's best by search value first."""
    return [one for study in studies for one in _confirmations_of(client, study)]


def _confirmations_of(client: Client, study: str) -> list[Confirmation]:
    runs: dict[int, list[TrackedRun]] = {}
    for run in client.find({"hdvae.study": study, "hdvae.kind": "confirmation"}):
        if run.tags.get("hdvae.state") == "COMPLETE":
            runs.setdefault(int(run.tags["hdvae.trial"]), []).append(run)
    parent = next(client.find({"hdvae.study": study, "hdvae.kind": "study"}), None) if runs else None
    if parent is None:
        return []
    metric, sign = parent.params["metric"], 1 if parent.params["direction"] == "maximize" else -1
    searched: dict[int, list[float]] = {}
    for run in client.find({"hdvae.study": study, "hdvae.kind": "run", "hdvae.state": "COMPLETE"}):
        searched.setdefault(int(run.tags["hdvae.trial"]), []).append(run.metrics[metric])
    found = [
        _confirmation(study, trial, metric, sign, statistics.fmean(searched[trial]), runs[trial])
        for trial in runs
        if trial in searched
    ]
    return sorted(found, key=lambda one: (-one.sign * one.search, one.trial))


def _confirmation(
    study: str, trial: int, metric: str, sign: int, search: float, runs: Sequence[TrackedRun]
) -> Confirmation:
    runs = sorted(runs, key=lambda run: int(run.tags["hdvae.seed"]))
    return Confirmation(
        study=study,
        trial=trial,
        arm=dict(json.loads(runs[0].tags["hdvae.arm"])),
        metric=metric,
        search=search,
        seeds=[int(run.tags["hdvae.seed"]) for run in runs],
        values=[run.metrics[metric] for run in runs],
        run_ids=[run.run_id for run in runs],
        sign=sign,
    )


def _near_studies(client: Client, study: str) -> str:
    return nearest(study, [run.tags["hdvae.study"] for run in client.find({"hdvae.kind": "study"})])


def _arm_of(run: TrackedRun, by: Sequence[str]) -> dict[str, Any]:
    if not by:
        return dict(json.loads(run.tags["hdvae.arm"]))
    for path in by:
        if path not in run.params:
            raise InputError(f"--by {path}: no such setting{nearest(path, run.params)}")
    return {path: _value(run.params[path]) for path in by}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _add(arm: Arm, run: TrackedRun) -> None:
    state = run.tags.get("hdvae.state")
    arm.pruned += state == "PRUNED"
    arm.failed += state == "FAIL"
    if state == "COMPLETE":
        arm.runs.append(run)


def as_json(
    studies: Sequence[str],
    compared: Sequence[Arm],
    metrics: Sequence[str] = (),
    confirmed: Sequence[Confirmation] = (),
) -> dict[str, Any]:
    """The comparison as JSON-like values: every arm, every metric, every pair of arms, every confirmed winner."""
    return {
        "studies": list(studies),
        "arms": [_arm_json(arm, metrics) for arm in compared],
        "differences": [
            one
            for a, b in itertools.combinations(compared, 2)
            for metric in (metrics or [f"valid/{name}" for name in SHOWN])
            if (one := _difference_json(a, b, metric)) is not None
        ],
        "confirmations": [one.plain() for one in confirmed],
    }


def _arm_json(arm: Arm, metrics: Sequence[str]) -> dict[str, Any]:
    values = {metric: arm.values(metric) for metric in metrics or arm.metrics()}
    return {
        "arm": arm.arm,
        "runs": len(arm.runs),
        "pruned": arm.pruned,
        "failed": arm.failed,
        "seeds": arm.seeds,
        "run_ids": [run.run_id for run in arm.runs],
        "metrics": {metric: {**vars(interval(v)), "values": v} for metric, v in values.items() if v},
    }


def _difference_json(a: Arm, b: Arm, metric: str) -> dict[str, Any] | None:
    found = difference(a.by_seed(metric), b.by_seed(metric))
    if found is None:
        return None
    value, paired = found
    return {"a": a.arm, "b": b.arm, "metric": metric, **vars(value), "paired": paired}


def known_metric(compared: Sequence[Arm], metric: str) -> str:
    """The full name of a metric that some run has; `elbo` means `valid/elbo`.

    Raises:
        InputError: no run has it; names the nearest.
    """
    known = {name for arm in compared for name in arm.metrics()}
    full = metric if "/" in metric and not metric.startswith("kl/") else f"valid/{metric}"
    if full not in known:
        raise InputError(f"no run has the metric {full}{nearest(full, known)}")
    return full


def as_table(compared: Sequence[Arm], metrics: Sequence[str] = ()) -> str:
    """The comparison for a terminal: mean ± standard deviation over seeds; the bias also ± its error over images."""
    names = list(metrics) or [f"valid/{name}" for name in SHOWN]
    header = ["arm", "runs", *(name.removeprefix("valid/") if not metrics else name for name in names)]
    rows = [[label(arm.arm), _count(arm), *(_cell(arm, name) for name in names)] for arm in compared]
    notes = [
        "Nats per image"
        + (", valid split" if not metrics else "")
        + "; mean ± standard deviation over runs (seeds, unless arms are pooled).",
        "(se …) is the standard error of relaxation_bias over images, root mean square over seeds.",
    ]
    shows_bias = any("relaxation_bias" in name for name in names)
    return "\n".join([table(header, rows), "", *notes[: 2 if shows_bias else 1]])


def differences_table(compared: Sequence[Arm], metric: str) -> str:
    """Every pair of arms: difference of the means with its 95% interval."""
    rows = _differences(compared, metric, [label(arm.arm) for arm in compared], "  minus  ")
    return table([f"difference in {metric}", "mean", "95% interval", "how"], rows) if rows else ""


def _differences(compared: Sequence[Arm], metric: str, names: Sequence[str], minus: str) -> list[list[str]]:
    """A row for each pair of arms that have the metric, under the names given to the arms."""
    rows = []
    for (a, first), (b, second) in itertools.combinations(zip(compared, names, strict=True), 2):
        found = difference(a.by_seed(metric), b.by_seed(metric))
        if found is not None:
            value, paired = found
            limits = "—" if value.low is None else f"[{value.low:+.2f}, {value.high:+.2f}]"
            how = "paired by seed" if paired else "unpaired"
            rows.append([f"{first}{minus}{second}", f"{value.mean:+.2f}", limits, how])
    return rows


CONFIRMATION_HEADER = ["confirmed on fresh seeds", "metric", "search", "confirmed", "95% interval", "runs", "shrinkage"]


def confirmation_table(confirmed: Sequence[Confirmation]) -> str:
    """The winners of searches: what they had in the search, and what they have on fresh seeds."""
    rows = _confirmation_rows(confirmed)
    return table(CONFIRMATION_HEADER, rows) if rows else ""


def _confirmation_rows(confirmed: Sequence[Confirmation]) -> list[list[str]]:
    rows = []
    for one in confirmed:
        found = one.confirmed
        limits = "—" if found.low is None else f"[{found.low:.2f}, {found.high:.2f}]"
        name = f"trial {one.trial}: {label(one.arm)}"
        worth = [f"{one.search:.2f}", f"{found.mean:.2f}", limits, str(len(one.values)), f"{one.shrinkage:+.2f}"]
        rows.append([name, one.metric, *worth])
    return rows


def as_markdown(
    studies: Sequence[str],
    compared: Sequence[Arm],
    metrics: Sequence[str],
    command: str,
    confirmed: Sequence[Confirmation] = (),
) -> str:
    """A page: means with 95% intervals over seeds, then the differences between arms.

    Args:
        studies: names.
        compared: their arms.
        metrics: full names.
        command: that made the page, for the reader.
        confirmed: the winners of their searches.
    """
    numbers = [str(i) for i in range(1, len(compared) + 1)]
    rows = [
        [f"{number}. {label(arm.arm)}", _count(arm), *(_interval_cell(arm, name) for name in metrics)]
        for number, arm in zip(numbers, compared, strict=True)
    ]
    pages = [f"# {', '.join(studies)}", f"Made by `{command}`. Nats per image; mean [95% interval] over seeds."]
    pages.append(markdown(["arm", "runs", *metrics], rows))
    for metric in [name for name in metrics if name in DIFFERENCES] or metrics:
        found = _differences(compared, metric, numbers, " − ")
        if found:
            pages.append(markdown([f"difference in {metric}", "mean", "95% interval", "how"], found))
    if confirmed:
        pages.append(markdown(CONFIRMATION_HEADER, _confirmation_rows(confirmed)))
    return "\n\n".join(pages) + "\n"


def _interval_cell(arm: Arm, metric: str) -> str:
    values = arm.values(metric)
    if not values:
        return "—"
    found = interval(values)
    limits = "" if found.low is None or found.high is None else f" [{_number(found.low)}, {_number(found.high)}]"
    return f"{_number(found.mean)}{limits}"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < LARGE else f"{value:.2e}"


def label(arm: Mapping[str, Any]) -> str:
    """An arm in words: the last part of each path, and its value.

    >>> label({"model.latent": "categorical", "training.temperature": [[0, 0.8], [100, 0.1]]})
    'latent categorical, temperature 0.8→0.1 at 100'
    """
    parts = [f"{_short(path, arm)} {_brief(value)}" for path, value in arm.items()]
    return ", ".join(parts) or "the experiment"


def _short(path: str, arm: Mapping[str, Any]) -> str:
    """The shortest end of a path that no other path of the arm shares."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not parts[-length].isdigit() and sum(other.endswith(end) for other in arm) == 1:
            return end
    return path


def _brief(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(point, list) and len(point) == 2 for point in value):
        first, *rest = value
        return "→".join([f"{first[1]:g}", *(f"{v:g} at {step:g}" for step, v in rest)])
    return value if isinstance(value, str) else json.dumps(value)


def _count(arm: Arm) -> str:
    parts = [str(len(arm.runs))]
    parts += [f"{arm.pruned} pruned"] if arm.pruned else []
    parts += [f"{arm.failed} failed"] if arm.failed else []
    return " + ".join(parts)


def _cell(arm: Arm, metric: str) -> str:
    values = arm.values(metric)
    if not values:
        return "—"
    text = f"{statistics.fmean(values):.2f}"
    text += f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    name = metric.partition("/")[2]
    if name.partition("@")[0] == "relaxation_bias":
        errors = arm.values(metric.replace("relaxation_bias", "relaxation_bias_se"))
        error = math.sqrt(statistics.fmean([e * e for e in errors])) if errors else math.nan
        text += f" (se {error:.2f})"
    short = len(values) < len(arm.runs)
    return text + (f" of {len(values)}" if short else "")
