"""The arms of studies, as MLflow holds them: an arm is what was varied, and its runs differ by seed.

Only complete runs enter means; the others are counted beside them. Runs are read page by page and of each only what
is asked for is kept: a study may have ten thousand.
"""

from __future__ import annotations

import functools
import json
import math
import re
import statistics
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.display.text import brief
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.file import read_yaml
from hdvae_platform.study.space import set_key
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.names import OWN_TAGS, Tag
from hdvae_platform.tracking.study_run import search_runs, study_names


@dataclass
class Arm:
    """The complete runs that share the varied settings.

    Attributes:
        arm: dotted path → value.
        runs: complete runs, by trial and seed.
        pruned: how many were pruned.
        failed: how many failed.
        unfinished: how many have not ended.
    """

    arm: dict[str, Any]
    runs: list[TrackedRun] = field(default_factory=list)
    pruned: int = 0
    failed: int = 0
    unfinished: int = 0

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return [run.seed for run in self.runs]

    @property
    def pools(self) -> dict[str, set[int]]:
        """What was varied beside the arm's own settings, as JSON → the seeds of its runs with that."""
        found: dict[str, set[int]] = {}
        for run, seed in zip(self.runs, self.seeds, strict=True):
            beside = {path: value for path, value in varied_in(run).items() if path not in self.arm}
            found.setdefault(set_key(beside), set()).add(seed)
        return found

    def each(self, metric: str) -> list[float | None]:
        """The metric of each run, in the order of the seeds; None where it is missing or not finite."""
        found = [run.metrics.get(metric, math.nan) for run in self.runs]
        return [value if math.isfinite(value) else None for value in found]

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it, in the order of the seeds."""
        return [value for value in self.each(metric) if value is not None]

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric by seed, the independent unit; the mean over parameter sets where the arm pools several."""
        return self._by_seed(self.each(metric))

    def each_signed(self, metric: str) -> list[float | None]:
        """As `each`; of a bias |δ| the δ, since |δ| is above 0 by noise alone."""
        parts = parts_of(metric)
        if parts is None:
            return self.each(metric)
        couples = zip(*map(self.each, parts), strict=True)
        return [None if first is None or second is None else first - second for first, second in couples]

    def signed_by_seed(self, metric: str) -> dict[int, float]:
        """As `by_seed`, with the sign of a bias."""
        return self._by_seed(self.each_signed(metric))

    def _by_seed(self, each: Sequence[float | None]) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for seed, value in zip(self.seeds, each, strict=True):
            if value is not None:
                found.setdefault(seed, []).append(value)
        return {seed: statistics.fmean(values) for seed, values in found.items()}

    def metrics(self) -> list[str]:
        """Every metric that a run has."""
        return sorted({metric for run in self.runs for metric in run.metrics})


def arms(
    client: Client,
    studies: Sequence[str],
    by: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    metrics: Collection[str] = (),
    keep: Collection[str] = (),
) -> list[Arm]:
    """The arms of one or more studies.

    Args:
        client: MLflow.
        studies: names.
        by: dotted paths to group by; by default everything that the study varied.
        where: settings that a run must have to be looked at.
        metrics: full names that some run must have.
        keep: further ones that are kept of each run. With neither all are. Settings are always kept.

    Raises:
        InputError: a study is unknown to MLflow, or none of its runs is complete; a path or metric no run has.
    """
    wanted, kept, studies = where or {}, {*metrics, *keep}, list(dict.fromkeys(studies))
    found: dict[str, Arm] = {}
    known, order = _Known(), dict[str, tuple[int, int]]()
    for place, study in enumerate(studies):
        for run in _runs(client, study):
            known.see(run, wanted)
            if all(setting(run, path) == value for path, value in wanted.items()):
                settings = _arm_of(run, by) | ({"study": study} if len(studies) > 1 else {})
                key, at = set_key(settings), (place, run.trial)
                order[key] = min(order.get(key, at), at)
                _add(found.setdefault(key, Arm(settings)), _trimmed(run, kept))
    known.check(by, wanted, metrics)
    if not found:
        raise InputError(f"no run has {known.unmet(wanted)}")
    return _complete([found[key] for key in sorted(found, key=order.__getitem__)], studies)


def with_runs(compared: Sequence[Arm]) -> list[Arm]:
    """The arms that have a complete run."""
    return [arm for arm in compared if arm.runs]


def settings_of(texts: Sequence[str], option: str) -> dict[str, Any]:
    """`path=value` of the command line, values in YAML.

    >>> settings_of(["model.width=8", "model.latent=normal"], "--where")
    {'model.width': 8, 'model.latent': 'normal'}

    Raises:
        InputError: one is not of this form.
    """
    found: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"{option} {text}: write {option} path=value, e.g. {option} model.latent=categorical")
        found[path] = read_yaml(value, f"{option} {text}")
    return found


def setting(run: TrackedRun, path: str) -> Any:
    """A setting of a run as a value; None if it has none of this path."""
    varied = varied_in(run)
    return varied[path] if path in varied else value_of(run.params[path]) if path in run.params else None


def varied_in(run: TrackedRun) -> dict[str, Any]:
    """What the study varied, as it is in this run."""
    return dict(json.loads(run.tags.get(Tag.ARM, "{}")))


@functools.lru_cache(4096)
def value_of(text: str) -> Any:
    """The value of a parameter, which MLflow keeps as text.

    >>> value_of("0.5"), value_of("[[0, 0.8]]"), value_of("None"), value_of("normal")
    (0.5, [[0, 0.8]], None, 'normal')
    """
    named = {"None": None, "True": True, "False": False}
    if text in named:
        return named[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _runs(client: Client, study: str) -> Iterator[TrackedRun]:
    """The runs of a study's search."""
    found = search_runs(client, study)
    first = next(found, None)
    if first is None:
        raise InputError(f"no study {study} in MLflow at {client.address}{nearest(study, study_names(client))}")
    yield first
    yield from found


class _Known:
    """What runs have, to answer what none of them has."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._metrics: set[str] = set()
        self._values: dict[str, Counter[str]] = {}

    def see(self, run: TrackedRun, wanted: Mapping[str, Any]) -> None:
        self._paths.update(run.params, varied_in(run))
        self._metrics.update(run.metrics)
        for path in wanted:
            self._values.setdefault(path, Counter())[json.dumps(setting(run, path))] += 1

    def check(self, by: Sequence[str], wanted: Mapping[str, Any], metrics: Collection[str]) -> None:
        for option, path in [*(("--by", path) for path in by), *(("--where", path) for path in wanted)]:
            if path not in self._paths:
                raise InputError(f"{option} {path}: no such setting{nearest(path, self._paths)}")
        for metric in metrics:
            if metric not in self._metrics:
                raise InputError(f"no run has the metric {metric}{self._instead(metric)}")

    def _instead(self, metric: str) -> str:
        if metric.startswith("test/") and not any(known.startswith("test/") for known in self._metrics):
            return ": test images are measured by `hdvae evaluate RUN`, and were for none"
        return nearest(metric, self._metrics)

    def unmet(self, wanted: Mapping[str, Any]) -> str:
        return "; ".join(
            f"{path}={json.dumps(value)} (there are {', '.join(v for v, _ in self._values[path].most_common(8))})"
            for path, value in wanted.items()
        )


def _arm_of(run: TrackedRun, by: Sequence[str]) -> dict[str, Any]:
    return {path: setting(run, path) for path in by} if by else varied_in(run)


def _trimmed(run: TrackedRun, kept: Collection[str]) -> TrackedRun:
    """The run with the metrics that are kept of it; its names, and values that many runs share, are in memory once."""
    metrics = {sys.intern(name): value for name, value in run.metrics.items() if not kept or name in kept}
    params = {sys.intern(path): sys.intern(value) for path, value in run.params.items()}
    tags = {
        sys.intern(key): sys.intern(value)
        for key, value in run.tags.items()
        if key.startswith(OWN_TAGS) or key == Tag.COMMIT
    }
    return replace(run, tags=tags, params=params, metrics=metrics)


def _add(arm: Arm, run: TrackedRun) -> None:
    state = run.state
    arm.pruned += state == RunState.PRUNED
    arm.failed += state == RunState.FAIL
    if state == RunState.COMPLETE:
        arm.runs.append(run)
    arm.unfinished += state is None or not state.is_terminal


def _complete(found: list[Arm], studies: Sequence[str]) -> list[Arm]:
    """The arms with their runs in order, if there is a complete one among them."""
    if not any(arm.runs for arm in found):
        raise InputError(f"no run of {', '.join(studies)} is complete yet: `hdvae study status {studies[0]}`")
    for arm in found:
        arm.runs.sort(key=lambda run: (run.trial, run.seed))
    return found


def full_name(metric: str) -> str:
    """A metric with its split; `valid/` where none is given.

    >>> full_name("elbo"), full_name("kl/layer_1"), full_name("test/elbo")
    ('valid/elbo', 'valid/kl/layer_1', 'test/elbo')
    """
    return metric if metric.startswith(("valid/", "test/", "train/")) else f"valid/{metric}"


def is_test(metric: str) -> bool:
    """Whether a metric, by its full name, is of test images."""
    return metric.startswith("test/")


def measured_on_test(run: TrackedRun) -> dict[str, Any]:
    """How a run was measured on test images: `images`, `draws`, `samples`, `tau`, `kappa`; empty if it was not."""
    return dict(json.loads(run.tags.get(Tag.TEST_MEASURED, "{}")))


def parts_of(metric: str) -> tuple[str, str] | None:
    """The two metrics of which a bias is the distance |first − second|; None for a metric that is no such distance.

    >>> parts_of("valid/relaxation_bias@tau=0.1"), parts_of("valid/elbo")
    (('valid/surrogate_elbo@tau=0.1', 'valid/elbo'), None)
    """
    found = re.fullmatch(r"(.*/)(relaxation|coupled)_bias(@.*)?", metric)
    if found is None:
        return None
    split, kind, at = found[1], found[2], found[3] or ""
    return f"{split}surrogate_elbo{at}", f"{split}elbo" if kind == "relaxation" else f"{split}coupled_elbo{at}"


def signed_name(metric: str) -> str:
    """The name of a bias with its sign; of any other metric its own.

    >>> signed_name("valid/relaxation_bias@tau=0.1"), signed_name("valid/elbo")
    ('valid/relaxation_bias_signed@tau=0.1', 'valid/elbo')
    """
    return metric if parts_of(metric) is None else re.sub(r"_bias(?=@|$)", "_bias_signed", metric)


def label(arm: Mapping[str, Any]) -> str:
    """An arm in words: the last part of each path, and its value to four digits. Where arms stand together: `labels`.

    >>> label({"model.latent": "categorical", "training.temperature": [[0, 0.8], [100, 0.1]]})
    'latent categorical, temperature 0.8→0.1 at 100'
    """
    parts = [f"{_short(path, arm)} {brief(value)}" for path, value in arm.items()]
    return ", ".join(parts) or "the experiment"


def labels(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The label of each arm; where those of different arms are the same, with whole paths and values.

    >>> labels([{"training.freebits": 0.10001}, {"training.freebits": 0.10002}, {"training.freebits": 2.00001}])
    ['training.freebits 0.10001', 'training.freebits 0.10002', 'freebits 2.0']
    """
    keys = [set_key(arm) for arm in arms]
    short = {key: label(arm) for key, arm in zip(keys, arms, strict=True)}
    counted = Counter(short.values())
    return [
        short[key] if counted[short[key]] == 1 else ", ".join(f"{path} {json.dumps(arm[path])}" for path in arm)
        for key, arm in zip(keys, arms, strict=True)
    ]


def _short(path: str, arm: Mapping[str, Any]) -> str:
    """The shortest end of a path that no other path of the arm shares."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not re.fullmatch(r"\d+", parts[-length]) and sum(other.endswith(end) for other in arm) == 1:
            return end
    return path
