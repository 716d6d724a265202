"""Measurements of the hard, the relaxed and the coupled chain of each image, on common random numbers.

The relaxation bias δ_τ is a difference of two expectations. It is measured on the same images and the same noise: a
sample of the surrogate minus a hard sample, averaged over draws, then over images. The noise is a function of the seed,
the draw and the index of the image, not of the training step; so the evaluations of a run, and of all runs with the
same seed, share it. What does not depend on the noise is computed once.

All averages over draws and images are in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.bounds.bounds import certified_bound, check, distances, local_bound
from hdvae.bounds.lipschitz import Certificate, certify
from hdvae.evaluation.metrics import at
from hdvae.experiment.experiment import Grade
from hdvae.network.model import HDVAE
from hdvae.network.samplers import Temperature, hard, relaxed
from hdvae.network.terms import Terms
from hdvae.objectives.objectives import expected_log_weight
from hdvae.randomness.noise import NoiseSource

ROWS = 1024
"""Number of images × samples that go through the network at once."""
Columns = dict[str, Tensor]
"""Per-image values by name, each (images,), float64, nats unless the metric says otherwise."""


@dataclass(frozen=True)
class Measured:
    """Per-image means over draws.

    Attributes:
        hard: the values of the hard chain: `elbo`, `log_px`, `kl/layer_i`.
        relaxed: the values of the relaxed and the coupled chain for each temperature, by its label.
        codes: the classes of the hard chain for each layer of categorical variables, by its name, (images, draws, N).
    """

    hard: Columns
    relaxed: Mapping[str, Columns]
    codes: Columns = field(default_factory=dict)

    def columns(self) -> Columns:
        """All values by the names of their metrics."""
        return {**self.hard, **{at(name, label): v for label, cols in self.relaxed.items() for name, v in cols.items()}}

    def cpu(self) -> Measured:
        """The same on the CPU."""

        def moved(columns: Columns) -> Columns:
            return {name: column.cpu() for name, column in columns.items()}

        relaxed = {label: moved(columns) for label, columns in self.relaxed.items()}
        return Measured(moved(self.hard), relaxed, moved(self.codes))


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
    """Measure the hard, relaxed and coupled chains of every image on common random numbers.

    Args:
        model: the model in evaluation mode.
        images: images of 0 and 1, (n, H, W).
        temperatures: the temperatures of the relaxed chains, by label.
        draws: M, the number of noise draws for each image.
        seed: the seed of the noise.
        grade: the kind of κ in the Lipschitz bounds.
        start: the index of the first image. The noise of an image is a function of its index.

    Raises:
        BoundViolated: a draw is above its certified bound.
    """
    relaxable = model.config.latent == "categorical"  # normal variables are never relaxed: their chains coincide
    certificate = certify(model) if relaxable and grade == "certified" else None
    chunks = []
    with parametrize.cached():
        for first in range(0, len(images), ROWS):
            x = images[first : first + ROWS].to(next(model.parameters()).dtype)
            chunk = _Chunk(model, x, model.encode(x), start + first, seed, certificate)
            chunks.append(_mean([_one_draw(chunk, draw, temperatures) for draw in range(draws)]))
    return joined(chunks)


@dataclass(frozen=True)
class _Chunk:
    """Images that go through the network together, and what all draws share."""

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
    relaxed_columns = {
        label: _relaxed_columns(chunk, model.terms(x, chunk.encoded, noise, relaxed(tau)))
        for label, tau in temperatures.items()
    }
    codes = {model.name(layer.node): layer.draw.hard.unsqueeze(1) for layer in terms.layers}
    return Measured(columns, relaxed_columns, codes)


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
    """The values of the relaxed and the coupled chain of normal variables, which are those of the hard chain."""
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


def joined(chunks: Sequence[Measured]) -> Measured:
    """The measurements of several chunks of images, one chunk after the other."""

    def concatenated(columns: Sequence[Columns]) -> Columns:
        return {name: torch.cat([one[name] for one in columns]) for name in columns[0]}

    labels = chunks[0].relaxed
    return Measured(
        concatenated([one.hard for one in chunks]),
        {label: concatenated([one.relaxed[label] for one in chunks]) for label in labels},
        concatenated([one.codes for one in chunks]),
    )
