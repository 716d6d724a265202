"""Evaluation: the bounds and the relaxation bias of a trained model on a fixed set of images.

δ_τ is a difference of two expectations, so it is measured: on the same images and the same noise, a surrogate
sample minus a hard sample, averaged over draws, then over images. The noise depends on the seed, the draw and
the image's place, not on the step, so curves over training and the arms of a study share it as well. The hard, the
relaxed and the coupled chain share it, and what does not depend on it is computed once.

All averages over draws and images are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.bounds.bounds import certified_bound, check, distances, local_bound
from hdvae.bounds.lipschitz import Certificate, certify
from hdvae.errors import BoundViolated
from hdvae.evaluation.metrics import CURRENT, at, at_samples, tau_label
from hdvae.evaluation.usage import perplexity
from hdvae.experiment.experiment import EvaluationConfig, Grade
from hdvae.network.model import HDVAE, Temperature, Terms, evaluating, hard, independent, relaxed
from hdvae.objectives.objectives import expected_log_weight, log_weight
from hdvae.randomness.noise import NoiseSource
from hdvae.randomness.seeds import derive
from hdvae.randomness.shares import BLOCK
from hdvae.workers import ALONE, Workers

ROWS = 64 * BLOCK
"""Images × samples that go through the network at once."""
Columns = dict[str, Tensor]
"""Per-image values by name, float64, each (images,)."""
ERRORS = 4
"""Standard errors by which a measured bias may be above a certified bound before it is called a contradiction."""


@dataclass(frozen=True)
class Measured:
    """Per-image means over draws.

    Attributes:
        hard: of the hard chain: `elbo`, `log_px`, `kl/layer_i`.
        relaxed: for each temperature, by its label: what is measured of the relaxed and the coupled chain.
        codes: of the hard chain, the classes of every image and draw for each layer of categorical variables, by its
            name, (images, draws, N).
    """

    hard: Columns
    relaxed: Mapping[str, Columns]
    codes: Columns = field(default_factory=dict)

    def columns(self) -> Columns:
        """Everything, under the names of the metrics."""
        return {**self.hard, **{at(name, label): v for label, cols in self.relaxed.items() for name, v in cols.items()}}

    def cpu(self) -> Measured:
        """The same on the CPU."""

        def moved(columns: Columns) -> Columns:
            return {name: column.cpu() for name, column in columns.items()}

        relaxed = {label: moved(columns) for label, columns in self.relaxed.items()}
        return Measured(moved(self.hard), relaxed, moved(self.codes))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives.

    Attributes:
        metrics: means over images, by name without the split.
        per_image: the per-image values of which they are means, (images,), float64; `image` is the place in the
            split's chosen images.
    """

    metrics: dict[str, float]
    per_image: Columns


def choose_images(count: int, available: int) -> np.ndarray:
    """A fixed random subset: `count` of `available` indices, in order (all, if there are fewer).

    Never the first ones: some published files are sorted by class.
    """
    if count >= available:
        return np.arange(available)
    chosen = np.random.Generator(np.random.Philox(derive(0, "evaluation images"))).permutation(available)
    return np.sort(chosen[:count])


@torch.no_grad()
def measure(
    model: HDVAE,
    images: Tensor,
    temperatures: Mapping[str, Temperature],
    draws: int,
    seed: int,
    grade: Grade = "certified",
    start: int = 0,
) -> Measured:
    """The hard, relaxed and coupled chains of every image on common random numbers.

    Args:
        model: in evaluation mode.
        images: 0 and 1, (n, H, W).
        temperatures: of the relaxed chains, by label.
        draws: M, noise draws for each image.
        seed: of the noise.
        grade: of the κ in the Lipschitz bounds.
        start: the place of the first image, of which its noise is a function; a multiple of `BLOCK`.

    Raises:
        BoundViolated: a draw contradicts its certified bound.
    """
    soft = model.config.latent == "categorical"  # normal variables are never relaxed: the chains coincide
    certificate = certify(model) if soft and grade == "certified" else None
    chunks = []
    with parametrize.cached():
        for first in range(0, len(images), ROWS):
            x = images[first : first + ROWS].to(next(model.parameters()).dtype)
            chunk = _Chunk(model, x, model.encode(x), start + first, seed, certificate)
            chunks.append(_mean([_one_draw(chunk, draw, temperatures) for draw in range(draws)]))
    return _joined(chunks)


@dataclass(frozen=True)
class _Chunk:
    """Images that go through the network together, and what every draw of them shares."""

    model: HDVAE
    x: Tensor
    encoded: Sequence[Tensor]
    first: int
    seed: int
    certificate: Certificate | None


def _one_draw(chunk: _Chunk, draw: int, temperatures: Mapping[str, Temperature]) -> Measured:
    model, x = chunk.model, chunk.x
    source = NoiseSource.at(
        x.device, x.dtype, len(x), seed=chunk.seed, purpose="evaluation", step=draw, first=chunk.first
    )
    noise = model.noise(source)
    terms = model.terms(x, chunk.encoded, noise, hard)
    columns = {"elbo": expected_log_weight(terms), "log_px": terms.log_px.double()}
    columns |= {f"kl/{model.name(layer.node)}": layer.expected_log_ratio().double() for layer in terms.layers}
    if model.config.latent == "normal":
        return Measured(columns, {label: _coinciding(columns["elbo"]) for label in temperatures})
    found = {
        label: _relaxed_columns(chunk, model.terms(x, chunk.encoded, noise, relaxed(tau)))
        for label, tau in temperatures.items()
    }
    codes = {model.name(layer.node): layer.draw.hard.unsqueeze(1) for layer in terms.layers}
    return Measured(columns, found, codes)


def _relaxed_columns(chunk: _Chunk, terms: Terms) -> Columns:
    model, x = chunk.model, chunk.x
    coupled = model.coupled(x, terms)
    hard_draws = {layer.node: layer.draw for layer in coupled.layers}
    apart = distances(terms, hard_draws)
    if chunk.certificate is not None:
        bound = certified_bound(chunk.certificate, x, apart)
        check(bound, terms, coupled, chunk.first)
    else:
        bound = local_bound(model, x, terms, hard_draws)
    surrogate, coupled_sample = expected_log_weight(terms), expected_log_weight(coupled)
    return {
        "surrogate_elbo": surrogate,
        "coupled_elbo": coupled_sample,
        "jensen_bound": (surrogate - coupled_sample).abs(),
        "lipschitz_bound": bound.soft,
        "lipschitz_bound_reads": bound.read,
        **{f"distance/{model.name(node)}": distance.soft.double() for node, distance in apart.items()},
        **{
            f"dropped_mass/{model.name(layer.node)}": layer.draw.dropped.double()
            for layer in terms.layers
            if layer.draw.dropped is not None
        },
    }


def _coinciding(elbo: Tensor) -> Columns:
    """What is measured where nothing is relaxed."""
    zero = torch.zeros_like(elbo)
    bounds = dict.fromkeys(("jensen_bound", "lipschitz_bound", "lipschitz_bound_reads"), zero)
    return {"surrogate_elbo": elbo, "coupled_elbo": elbo, **bounds}


def _mean(draws: Sequence[Measured]) -> Measured:
    def mean(columns: Sequence[Columns]) -> Columns:
        return {name: torch.stack([one[name] for one in columns]).mean(0) for name in columns[0]}

    labels = draws[0].relaxed
    return Measured(
        mean([one.hard for one in draws]),
        {label: mean([one.relaxed[label] for one in draws]) for label in labels},
        {name: torch.cat([one.codes[name] for one in draws], 1) for name in draws[0].codes},
    )


def _joined(chunks: Sequence[Measured]) -> Measured:
    def joined(columns: Sequence[Columns]) -> Columns:
        return {name: torch.cat([one[name] for one in columns]) for name in columns[0]}

    labels = chunks[0].relaxed
    return Measured(
        joined([one.hard for one in chunks]),
        {label: joined([one.relaxed[label] for one in chunks]) for label in labels},
        joined([one.codes for one in chunks]),
    )


@torch.no_grad()
def importance_weighted(model: HDVAE, images: Tensor, samples: int, seed: int, start: int = 0) -> Tensor:
    """Log (1/S) Σ_s p(x, z_s)/q(z_s|x) of each image with hard samples: (n,), float64, nats (Burda et al. 2015).

    The encoder runs once for each image; log-weights stay in log space. `start` as in `measure`.
    """
    chunk = min(len(images), ROWS)
    with parametrize.cached():
        parts = [
            _log_mean_weight(model, images[first : first + chunk], start + first, samples, seed)
            for first in range(0, len(images), chunk)
        ]
    return torch.cat(parts)


def _log_mean_weight(model: HDVAE, images: Tensor, first: int, samples: int, seed: int) -> Tensor:
    x = images.to(next(model.parameters()).dtype)
    encoded = model.encode(x)
    at_once = max(1, ROWS // len(x))
    weights = []
    for start in range(0, samples, at_once):
        chosen = range(start, min(start + at_once, samples))
        sources = [
            NoiseSource.at(x.device, x.dtype, len(x), seed=seed, purpose="importance", step=s, first=first)
            for s in chosen
        ]
        noises = [model.hard_noise(source) for source in sources]
        noise = {node: torch.cat([one[node] for one in noises]) for node in model.nodes}
        terms = model.terms(tiled(x, len(chosen)), [tiled(h, len(chosen)) for h in encoded], noise, independent)
        weights.append(log_weight(terms).view(len(chosen), len(x)))
    return torch.cat(weights).logsumexp(0) - math.log(samples)


def tiled(batch: Tensor, times: int) -> Tensor:
    """The batch `times` times, one copy after another: (B, …) → (times · B, …)."""
    return batch.repeat(times, *[1] * (batch.dim() - 1))


def summarise(measured: Measured, grade: Grade = "certified") -> dict[str, float]:
    """Means over images, with the bias at each temperature; bare names are the first temperature's.

    Raises:
        BoundViolated: a measured bias contradicts a certified bound.
    """
    metrics = {name: value.mean().item() for name, value in measured.hard.items()}
    metrics |= {f"perplexity/{name}": perplexity(codes).item() for name, codes in measured.codes.items()}
    metrics["kl"] = sum(value for name, value in metrics.items() if name.startswith("kl/"))
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
        metrics["relaxation_bias_se"] = standard_error(columns["surrogate_elbo"] - elbo)
        metrics["coupled_bias_se"] = standard_error(columns["surrogate_elbo"] - columns["coupled_elbo"])
    return metrics


def standard_error(values: Tensor) -> float:
    """Standard error of the mean over images."""
    return values.std().item() / math.sqrt(len(values))


def _check_bias(bias: Mapping[str, float], label: str) -> None:
    allowed = ERRORS * bias.get("coupled_bias_se", math.inf)
    for name in ("lipschitz_bound", "lipschitz_bound_reads"):
        if bias["coupled_bias"] > bias[name] + allowed:
            raise BoundViolated(at("coupled_bias", label), bias["coupled_bias"], bias[name])


def temperatures(config: EvaluationConfig, current: Temperature | None) -> dict[str, Temperature]:
    """The temperatures to measure at, by label: those of the evaluation, then that of training, if there is one."""
    chosen: dict[str, Temperature] = {tau_label(tau): tau for tau in config.tau}
    return chosen if current is None else {**chosen, CURRENT: current}


Part = TypeVar("Part", Measured, Tensor)


def _shared(workers: Workers, images: Tensor, act: Callable[[Tensor, int], Part]) -> list[Part]:
    """What every worker that has a share of the images finds on it, given the place of its first, in their order."""
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
    """Every metric of an evaluation, by its name without the split, and the values of each image.

    Each worker measures its share of the images; all of them return the same numbers.

    Args:
        model: any mode; it is left as it was.
        images: 0 and 1, (n, H, W), already the subset to evaluate on.
        config: draws, samples, temperatures.
        seed: of the noise.
        importance: also `iw_elbo`, which costs `config.samples` passes.
        current: the temperature of training, measured as well.
        workers: that evaluate together.

    Raises:
        BoundViolated: a measured quantity is above a certified bound.
    """
    chosen = temperatures(config, current)

    def measured_share(images: Tensor, start: int) -> Measured:
        return measure(model, images, chosen, config.draws, seed, config.kappa, start)

    def weighted_share(images: Tensor, start: int) -> Tensor:
        return importance_weighted(model, images, config.samples, seed, start)

    # Reduced precision in convolutions would be another network than the one that is certified.
    with evaluating(model), torch.backends.cudnn.flags(allow_tf32=False):
        measured = _joined(_shared(workers, images, measured_share))
        metrics, columns = summarise(measured, config.kappa), measured.columns()
        if importance:
            name = at_samples("iw_elbo", config.samples)
            columns[name] = torch.cat(_shared(workers, images, weighted_share))
            metrics["iw_elbo"] = metrics[name] = columns[name].mean().item()
    return Evaluation(metrics, columns)
