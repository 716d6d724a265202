"""Evaluation of a model on a fixed set of images: every metric, and the values of each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hdvae.errors import BoundViolated, InputError
from hdvae.evaluation.chains import Columns, Measured, joined, measure
from hdvae.evaluation.importance import importance_weighted
from hdvae.evaluation.metrics import CURRENT, at, at_samples, error_name, tau_label
from hdvae.evaluation.slot_use import slot_metrics
from hdvae.experiment.experiment import EvaluationConfig, Grade
from hdvae.network.model import HDVAE, evaluating
from hdvae.network.precision import products_in
from hdvae.network.samplers import Temperature
from hdvae.randomness.seeds import derive
from hdvae.workers import ALONE, Workers

ERRORS = 4
"""Number of standard errors by which a measured bias may exceed a certified bound before `BoundViolated` is raised."""


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        metrics: means over images, by name without the split.
        per_image: the values of each image, by the same names, (images,), float64.
    """

    metrics: dict[str, float]
    per_image: Columns


def choose_images(count: int, available: int) -> np.ndarray:
    """A fixed random subset of `count` out of `available` indices, in increasing order; all if there are fewer.

    It is not the first ones, since some published data sets are sorted by class.
    """
    if count >= available:
        return np.arange(available)
    chosen = np.random.Generator(np.random.Philox(derive(0, "evaluation images"))).permutation(available)
    return np.sort(chosen[:count])


def evaluated_images(config: EvaluationConfig, available: int) -> np.ndarray:
    """The indices of the validation images on which a run is evaluated, in increasing order.

    With `part: search` and `part: held_out` they are from two halves of the split that have no image in common. The
    halves are fixed at random, whatever the seed; of an odd number of images the first has one more.

    Args:
        config: which part, and how many of its images.
        available: the number of validation images.

    Raises:
        InputError: the part has no images.
    """
    whole = np.arange(available)
    if config.part != "all":
        shuffled = np.random.Generator(np.random.Philox(derive(0, "held-out images"))).permutation(available)
        middle = (available + 1) // 2
        whole = np.sort(shuffled[:middle] if config.part == "search" else shuffled[middle:])
    if not len(whole):
        raise InputError(f"evaluation.part: {config.part} has no images: there are {available} validation images")
    chosen: np.ndarray = whole[choose_images(config.images, len(whole))]
    return chosen


def summarise(measured: Measured, grade: Grade = "certified") -> dict[str, float]:
    """Means over images, and the relaxation bias at each temperature.

    Names without a temperature mean the first one.

    Raises:
        BoundViolated: a measured bias is above a certified bound.
    """
    metrics = {name: value.mean().item() for name, value in measured.hard.items()}
    for name, use in measured.use.items():
        metrics |= {f"{metric}/{name}": value for metric, value in slot_metrics(use.variables()).items()}
    kl = torch.stack([value for name, value in measured.hard.items() if name.startswith("kl/")]).sum(0)
    metrics["kl"] = sum(value for name, value in metrics.items() if name.startswith("kl/"))
    if len(measured.hard["elbo"]) > 1:
        metrics |= {"elbo_se": standard_error(measured.hard["elbo"]), "kl_se": standard_error(kl)}
    for i, (label, columns) in enumerate(measured.relaxed.items()):
        bias = _bias(columns, measured.hard["elbo"])
        if grade == "certified":
            _check_bias(bias, label)
        metrics |= bias if i == 0 else {}
        metrics |= {at(name, label): value for name, value in bias.items()}
    return metrics


def _bias(columns: Columns, elbo: Tensor) -> dict[str, float]:
    metrics = {name: value.mean().item() for name, value in columns.items()}
    signed = metrics["surrogate_elbo"] - elbo.mean().item()
    metrics |= {"relaxation_bias": abs(signed), "relaxation_bias_signed": signed}
    metrics["coupled_bias"] = abs(metrics["surrogate_elbo"] - metrics["coupled_elbo"])
    metrics["relaxed_elbo"] = metrics["surrogate_elbo"] - metrics["lipschitz_bound"]
    metrics["relaxed_elbo_reads"] = metrics["surrogate_elbo"] - metrics["lipschitz_bound_reads"]
    if len(elbo) > 1:
        metrics["surrogate_elbo_se"] = standard_error(columns["surrogate_elbo"])
        metrics["relaxation_bias_se"] = standard_error(columns["surrogate_elbo"] - elbo)
        metrics["coupled_bias_se"] = standard_error(columns["surrogate_elbo"] - columns["coupled_elbo"])
    return metrics


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of values (n,)."""
    return values.std().item() / math.sqrt(len(values))


def _check_bias(bias: Mapping[str, float], label: str) -> None:
    allowed = ERRORS * bias.get("coupled_bias_se", math.inf)
    for name in ("lipschitz_bound", "lipschitz_bound_reads"):
        if bias["coupled_bias"] > bias[name] + allowed:
            raise BoundViolated(at("coupled_bias", label), bias["coupled_bias"], bias[name])


def temperatures(config: EvaluationConfig, current: Temperature | None) -> dict[str, Temperature]:
    """The temperatures of an evaluation by label: those of the configuration, then the current one of training."""
    chosen: dict[str, Temperature] = {tau_label(tau): tau for tau in config.tau}
    return chosen if current is None else {**chosen, CURRENT: current}


Part = TypeVar("Part", Measured, Tensor)


def _shared(workers: Workers, images: Tensor, act: Callable[[Tensor, int], Part]) -> list[Part]:
    """The results of all workers on their shares of the images, in the order of the images.

    Args:
        workers: the workers; some may have no images.
        images: all images, (n, H, W).
        act: (a share of the images, the index of its first image) → the result.
    """
    mine = workers.share(len(images))
    if workers.size == 1:
        return [act(images, 0)]
    parts = workers.gather(lambda: act(images[mine], mine.start).cpu() if mine.start < mine.stop else None)
    return [part for part in parts if part is not None]


def evaluate(
    model: HDVAE,
    images: Tensor,
    config: EvaluationConfig,
    seed: int,
    *,
    importance: bool,
    current: Temperature | None = None,
    workers: Workers = ALONE,
) -> Evaluation:
    """Evaluate a model on images.

    Each worker measures its share of the images; all workers return the same numbers.

    Args:
        model: the model; its mode (training or evaluation) does not matter, and is restored.
        images: the images to evaluate on, 0 and 1, (n, H, W).
        config: the number of draws and samples, and the temperatures.
        seed: the seed of the noise.
        importance: whether to compute `iw_elbo`, which costs `config.samples` passes through the network.
        current: the current temperature of training, at which to measure as well.
        workers: the workers that share the images.

    Raises:
        BoundViolated: a measured quantity is above a certified bound.
    """
    chosen = temperatures(config, current)

    def measured_share(images: Tensor, start: int) -> Measured:
        return measure(model, images, chosen, config.draws, seed, config.kappa, start)

    def weighted_share(images: Tensor, start: int) -> Tensor:
        return importance_weighted(model, images, config.samples, seed, start)

    with evaluating(model), products_in("float32"):  # else the network would not be the one that is certified
        measured = joined(_shared(workers, images, measured_share))
        metrics, columns = summarise(measured, config.kappa), measured.columns()
        if importance:
            name = at_samples("iw_elbo", config.samples)
            columns[name] = torch.cat(_shared(workers, images, weighted_share))
            metrics["iw_elbo"] = metrics[name] = columns[name].mean().item()
            if len(columns[name]) > 1:
                metrics["iw_elbo_se"] = metrics[error_name(name)] = standard_error(columns[name])
    return Evaluation(metrics, columns)
