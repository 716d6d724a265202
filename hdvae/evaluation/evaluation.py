"""Evaluation of a model on a fixed set of images: every metric, and the values of each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.bounds.lipschitz import Certificate
from hdvae.errors import BoundViolated, InputError
from hdvae.evaluation.chains import Chunk, Columns, Measured, certificate_of, joined, measure_chunk
from hdvae.evaluation.importance import log_mean_weights
from hdvae.evaluation.memory import rows_at_once
from hdvae.evaluation.metrics import CURRENT, at, at_samples, error_name, sample_counts, tau_label
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


@dataclass(frozen=True)
class Part:
    """The results of an evaluation for some of its images.

    Attributes:
        measured: the chains of these images.
        weighted: L_S of these images for some S, (S, n), float64, nats; empty if they were not asked for.
    """

    measured: Measured
    weighted: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, in an order that matters."""
        return {"weighted": self.weighted, **self.measured.tensors()}

    def cpu(self) -> Part:
        """The same on the CPU."""
        return Part.of({name: tensor.cpu() for name, tensor in self.tensors().items()})

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Part:
        """What `tensors` gave."""
        return Part(Measured.of(tensors), tensors["weighted"])

    @staticmethod
    def joined(parts: Sequence[Part]) -> Part:
        """The results for all images of some parts."""
        return Part(joined([part.measured for part in parts]), torch.cat([part.weighted for part in parts], 1))


Keep = Callable[[range, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]
"""(a range of the images, a function that computes their results) → the results, computed now or kept from before."""


def _computed(images: range, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """A `Keep` that keeps nothing."""
    return compute()


def evaluate(
    model: HDVAE,
    images: Tensor,
    config: EvaluationConfig,
    seed: int,
    *,
    importance: bool,
    current: Temperature | None = None,
    workers: Workers = ALONE,
    keep: Keep = _computed,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate a model on images.

    Each worker measures its share of the images, in chunks for which its memory has room; all workers return the same
    numbers. Neither the number of workers nor the size of the chunks changes more than rounding.

    Args:
        model: the model; its mode (training or evaluation) does not matter, and is restored.
        images: the images to evaluate on, 0 and 1, (n, H, W).
        config: the number of draws and samples, and the temperatures.
        seed: the seed of the noise.
        importance: whether to compute `iw_elbo`, which costs `config.samples` passes through the network. L_S at
            S = 1, 10, 100, … is a by-product.
        current: the current temperature of training, at which to measure as well.
        workers: the workers that share the images.
        keep: by which the results of a chunk are kept, so that an evaluation that was cut off can go on.
        progress: is called with the number of images that are done and their total after each chunk.

    Raises:
        BoundViolated: a measured quantity is above a certified bound.
    """
    chosen, counts = temperatures(config, current), sample_counts(config.samples) if importance else []

    def compute(chunk_of: range, certificate: Certificate | None) -> dict[str, Tensor]:
        chunk = Chunk.of(model, images[chunk_of.start : chunk_of.stop], chunk_of.start, seed, certificate)
        measured = measure_chunk(chunk, chosen, config.draws)
        weighted = torch.empty(0, len(chunk.x), dtype=torch.float64, device=images.device)
        if counts:
            weighted = log_mean_weights(model, chunk.x, chunk.encoded, counts, seed, chunk.first, rows)
        return Part(measured, weighted).tensors()

    def share(mine: slice) -> Part:
        certificate, parts = certificate_of(model, config.kappa), []
        with parametrize.cached():
            for first in range(mine.start, mine.stop, rows):
                some = range(first, min(first + rows, mine.stop))
                parts.append(Part.of(keep(some, partial(compute, some, certificate))))
                progress(some.stop - mine.start, mine.stop - mine.start)
        return Part.joined(parts)

    # With reduced precision, the network would not be the one that is certified.
    with evaluating(model), products_in("float32"):
        rows = rows_at_once(model)
        whole = Part.joined(_shared(workers, len(images), share))
    metrics, columns = summarise(whole.measured, config.kappa), whole.measured.columns()
    return _with_importance(Evaluation(metrics, columns), dict(zip(counts, whole.weighted, strict=True)))


def _shared(workers: Workers, images: int, act: Callable[[slice], Part]) -> list[Part]:
    """The results of all workers for their shares of the images, in the order of the images; some may have none."""
    mine = workers.share(images)
    if workers.size == 1:
        return [act(mine)]
    parts = workers.gather(lambda: act(mine).cpu() if mine.start < mine.stop else None)
    return [part for part in parts if part is not None]


def _with_importance(evaluation: Evaluation, weighted: Mapping[int, Tensor]) -> Evaluation:
    """The evaluation with L_S for each S; the largest S gives `iw_elbo`."""
    metrics, columns = dict(evaluation.metrics), dict(evaluation.per_image)
    for samples, values in weighted.items():
        name = at_samples("iw_elbo", samples)
        columns[name] = values
        metrics["iw_elbo"] = metrics[name] = values.mean().item()
        if len(values) > 1:
            metrics["iw_elbo_se"] = metrics[error_name(name)] = standard_error(values)
    return Evaluation(metrics, columns)
