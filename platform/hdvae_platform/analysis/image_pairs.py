"""Differences between trained models, image by image.

Two runs of one seed are evaluated on the same images, and with variables of the same kind on the same noise, so their
difference can be taken on each image. Its interval over images says how much these trained models differ on images
like these. It says nothing about other trainings: there only seeds are independent.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyarrow import parquet

from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.inference import Interval, interval, pairs
from hdvae_platform.analysis.metric_names import is_test, parts_of
from hdvae_platform.analysis.run_settings import evaluation_on_test
from hdvae_platform.store.layout import per_image_artifact
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.names import EVALUATION, Tag

CLEAR_SIGN = 4.0
"""Standard errors that a mean bias must be away from 0 for its sign to count as known."""
FILES = {"valid": per_image_artifact("valid"), "test": f"{EVALUATION}/test.parquet"}
"""The artifact with a run's values of each image, by split."""
NOISE_SETTINGS = ("model.latent", "model.layers.", "model.reads", "model.wiring")
"""Prefixes of the settings on which the noise of an evaluation depends, besides seed, draws and image."""

Table = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class PerImage:
    """A metric on each image of a split: `images`, their indices, and `values` in nats, both (n,)."""

    images: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class ImagePaired:
    """The difference between the trained models of two arms.

    Attributes:
        value: mean over seeds and images, and its 95% interval over images.
        images: number of images.
        seeds: the seeds of the models.
        same_noise: whether the models of each pair were evaluated with the same noise, too.
    """

    value: Interval
    images: int
    seeds: list[int]
    same_noise: bool

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        return {**vars(self.value), "images": self.images, "seeds": self.seeds, "same_noise": self.same_noise}


class ImageValues:
    """Reads the values of each image from MLflow, once for each run.

    Args:
        client: connection to MLflow.
        metrics: full names of the metrics to read.
    """

    def __init__(self, client: Client, metrics: Sequence[str]) -> None:
        self._client, self._metrics = client, metrics
        self._by_run: dict[str, dict[str, PerImage]] = {}

    def of(self, run: TrackedRun, metric: str) -> PerImage | None:
        """A metric of a run on each image; None if the run has no such values, or they disagree with its metric."""
        if run.run_id not in self._by_run:
            self._by_run[run.run_id] = dict(self._read(run))
        return self._by_run[run.run_id].get(metric)

    def _read(self, run: TrackedRun) -> Iterable[tuple[str, PerImage]]:
        for split, name in FILES.items():
            metrics = [metric for metric in self._metrics if metric.startswith(f"{split}/")]
            data = self._client.read_file(run.run_id, name) if metrics else None
            if data is None:
                continue
            columns = parquet.read_table(io.BytesIO(data))
            table = {name: columns[name].to_numpy() for name in columns.column_names}
            for metric in metrics:
                values = derived(metric.removeprefix(f"{split}/"), table)
                if values is not None and _agrees(values, run.metrics.get(metric), parts_of(metric) is not None):
                    yield metric, PerImage(table["image"], values)


def _agrees(values: np.ndarray, metric: float | None, is_bias: bool) -> bool:
    """Whether the values of each image have the metric as their mean: otherwise they are from another evaluation."""
    mean = abs(float(values.mean())) if is_bias else float(values.mean())
    return metric is not None and math.isclose(mean, metric, rel_tol=1e-6, abs_tol=1e-6)


def derived(metric: str, table: Table) -> np.ndarray | None:
    """A metric on each image, from the columns of a file of values of each image; None where they do not give it.

    A bias |δ| is not a mean over images; δ is returned for it.

    Args:
        metric: name without its split.
        table: columns by name.
    """
    base, _, at = metric.partition("@")
    if base in ("relaxation_bias", "relaxation_bias_signed", "coupled_bias"):
        other = _column("coupled_elbo" if base == "coupled_bias" else "elbo", at, table)
        return _minus(_column("surrogate_elbo", at, table), other)
    if base in ("relaxed_elbo", "relaxed_elbo_reads"):
        bound = base.replace("relaxed_elbo", "lipschitz_bound")
        return _minus(_column("surrogate_elbo", at, table), _column(bound, at, table))
    if base == "kl":
        layers = [values for name, values in table.items() if name.startswith("kl/")]
        return np.sum(layers, axis=0) if layers else None
    return _column(base, at, table)


def _column(base: str, at: str, table: Table) -> np.ndarray | None:
    """A column by its name; a bare name means the first temperature, or the only sample count."""
    candidates = [base, f"{base}@{at}"] if at else [base, *(name for name in table if name.startswith(f"{base}@"))]
    return next((table[name] for name in candidates if name in table), None)


def _minus(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return None if a is None or b is None else a - b


def image_paired(a: Arm, b: Arm, metric: str, values: ImageValues) -> ImagePaired | None:
    """The difference a − b between trained models, paired by image; for a bias |δ|, |mean δ of a| − |mean δ of b|.

    None where the seeds are not paired, an arm pools several parameter sets, two runs of a seed do not have values of
    the same images, or the sign of a bias is not clear.
    """
    first, second = (dict(zip(arm.seeds, arm.runs, strict=True)) for arm in (a, b))
    seeds = pairs(a.by_seed(metric), b.by_seed(metric))
    if not seeds or len(a.pools) > 1 or len(b.pools) > 1:
        return None
    run_pairs = [(first[seed], second[seed]) for seed in seeds]
    value_pairs = [both for runs in run_pairs if (both := _on_same_images(*runs, metric, values)) is not None]
    if len(value_pairs) < len(run_pairs) or len({len(one) for one, _ in value_pairs}) > 1:
        return None
    means = [np.mean(each, axis=0) for each in zip(*value_pairs, strict=True)]
    if parts_of(metric) is not None:
        signs = [_sign(mean) for mean in means]
        if None in signs:
            return None
        means = [sign * mean for sign, mean in zip(signs, means, strict=True)]
    apart = means[0] - means[1]
    same_noise = all(_same_noise(*runs, metric) for runs in run_pairs)
    return ImagePaired(interval(apart.tolist()), len(apart), seeds, same_noise)


def _on_same_images(
    one: TrackedRun, other: TrackedRun, metric: str, values: ImageValues
) -> tuple[np.ndarray, np.ndarray] | None:
    """A metric of two runs on the same images; None where a run lacks it or the images differ."""
    a, b = values.of(one, metric), values.of(other, metric)
    if a is None or b is None or one.tags.get(Tag.DATA_CHECKSUM) != other.tags.get(Tag.DATA_CHECKSUM):
        return None
    return (a.values, b.values) if np.array_equal(a.images, b.images) else None


def _sign(values: np.ndarray) -> int | None:
    """The sign of a mean over images; None within `CLEAR_SIGN` standard errors of 0, but 0 where all values are 0."""
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return None if abs(mean) < CLEAR_SIGN * error else int(np.sign(mean))


def _same_noise(one: TrackedRun, other: TrackedRun, metric: str) -> bool:
    shapes = [{k: v for k, v in run.params.items() if k.startswith(NOISE_SETTINGS)} for run in (one, other)]
    draws = [
        evaluation_on_test(run).get("draws") if is_test(metric) else run.params.get("evaluation.draws")
        for run in (one, other)
    ]
    return shapes[0] == shapes[1] and draws[0] == draws[1]
