"""Measurements of the hard, the relaxed and the coupled chain of each image, on common random numbers.

The relaxation bias δ_τ is a difference of two expectations. It is measured on the same images and the same noise: a
sample of the surrogate minus a hard sample, averaged over draws, then over images. The noise is a function of the seed,
the draw and the index of the image, not of the training step; so the evaluations of a run, and of all runs with the
same seed, share it. What does not depend on the noise is computed once.

All averages over draws and images are in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.bounds.bounds import certified_bound, check, distances, local_bound
from hdvae.bounds.lipschitz import Certificate, certify
from hdvae.evaluation.memory import rows_at_once
from hdvae.evaluation.metrics import at
from hdvae.evaluation.slot_use import SlotUse
from hdvae.experiment.experiment import Grade
from hdvae.latents.distributions import Categorical
from hdvae.network.model import HDVAE
from hdvae.network.samplers import Temperature, hard, relaxed
from hdvae.network.terms import LayerTerms, Terms
from hdvae.objectives.objectives import expected_log_weight
from hdvae.randomness.noise import NoiseSource

SUMMED = 1024
"""Largest number of classes for which q(k|x) itself is kept, and not only the classes of its draws."""
Columns = dict[str, Tensor]
"""Per-image values by name, each (images,), float64, nats unless the metric says otherwise."""


@dataclass(frozen=True)
class LayerUse:
    """How images use the slots of one memory.

    Attributes:
        slots: K.
        values: q(k|x), its mean over draws of the hard chain, (images, N, K); or only the classes of these draws,
            (images, draws, N).
        posterior: whether it is q(k|x).
    """

    slots: int
    values: Tensor
    posterior: bool

    def variables(self) -> Iterator[SlotUse]:
        """The use by each variable."""
        values = self.values.cpu().numpy()
        for n in range(values.shape[1 if self.posterior else 2]):
            if self.posterior:
                yield SlotUse.of_posteriors(values[:, n].astype(np.float64))
            else:
                yield SlotUse.of_draws(values[:, :, n], self.slots)


@dataclass(frozen=True)
class Measured:
    """Per-image means over draws.

    Attributes:
        hard: the values of the hard chain: `elbo`, `log_px`, `kl/layer_i`.
        relaxed: the values of the relaxed and the coupled chain for each temperature, by its label.
        use: the use of each memory, by the name of its layer.
    """

    hard: Columns
    relaxed: Mapping[str, Columns]
    use: Mapping[str, LayerUse] = field(default_factory=dict)

    def columns(self) -> Columns:
        """All values by the names of their metrics."""
        return {**self.hard, **{at(name, label): v for label, cols in self.relaxed.items() for name, v in cols.items()}}

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, in an order that matters."""
        return {
            **{f"hard|{name}": column for name, column in self.hard.items()},
            **{f"relaxed|{at}|{name}": column for at, own in self.relaxed.items() for name, column in own.items()},
            **{f"use|{name}|{use.slots}|{use.posterior}": use.values for name, use in self.use.items()},
        }

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Measured:
        """What `tensors` gave; other tensors are ignored."""
        hard: Columns = {}
        relaxed: dict[str, Columns] = {}
        use: dict[str, LayerUse] = {}
        for full, values in tensors.items():
            match full.split("|"):
                case ["hard", name]:
                    hard[name] = values
                case ["relaxed", label, name]:
                    relaxed.setdefault(label, {})[name] = values
                case ["use", name, slots, posterior]:
                    use[name] = LayerUse(int(slots), values, posterior == str(True))
        return Measured(hard, relaxed, use)


@torch.no_grad()
def measure(
    model: HDVAE,
    images: Tensor,
    temperatures: Mapping[str, Temperature],
    draws: int,
    seed: int,
    grade: Grade = "certified",
) -> Measured:
    """Measure the hard, relaxed and coupled chains of every image on common random numbers.

    Args:
        model: the model in evaluation mode.
        images: images of 0 and 1, (n, H, W).
        temperatures: the temperatures of the relaxed chains, by label.
        draws: M, the number of noise draws for each image.
        seed: the seed of the noise.
        grade: the kind of κ in the Lipschitz bounds.

    Raises:
        BoundViolated: a draw is above its certified bound.
    """
    certificate, rows = certificate_of(model, grade), rows_at_once(model)
    with parametrize.cached():
        chunks = [
            measure_chunk(Chunk.of(model, images[first : first + rows], first, seed, certificate), temperatures, draws)
            for first in range(0, len(images), rows)
        ]
    return joined(chunks)


def certificate_of(model: HDVAE, grade: Grade) -> Certificate | None:
    """The certified constants of a model, None where they are not used: normal variables are never relaxed."""
    return certify(model) if model.config.latent == "categorical" and grade == "certified" else None


def measure_chunk(chunk: Chunk, temperatures: Mapping[str, Temperature], draws: int) -> Measured:
    """`measure` for images that go through the network together."""
    return _mean([_one_draw(chunk, draw, temperatures) for draw in range(draws)])


@dataclass(frozen=True)
class Chunk:
    """Images that go through the network together, and what all draws share.

    Attributes:
        model: the model in evaluation mode.
        x: the images, floating point, (B, H, W).
        encoded: the result of `HDVAE.encode` for them: the bottom-up pass happens once for each image.
        first: the index of the first image. The noise of an image is a function of its index.
        seed: the seed of the noise.
        certificate: of the model, see `certificate_of`.
    """

    model: HDVAE
    x: Tensor
    encoded: Sequence[Tensor]
    first: int
    seed: int
    certificate: Certificate | None

    @staticmethod
    def of(model: HDVAE, images: Tensor, first: int, seed: int, certificate: Certificate | None) -> Chunk:
        """The chunk of images of 0 and 1, (B, H, W)."""
        x = images.to(next(model.parameters()).dtype)
        return Chunk(model, x, model.encode(x), first, seed, certificate)


def _one_draw(chunk: Chunk, draw: int, temperatures: Mapping[str, Temperature]) -> Measured:
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
    use = {model.name(layer.node): _use(layer, dense=not model.config.top_m_reads) for layer in terms.layers}
    return Measured(columns, relaxed_columns, use)


def _use(layer: LayerTerms, *, dense: bool) -> LayerUse:
    """The use of a memory by one draw of the hard chain: q itself where all K weights are computed anyway."""
    assert isinstance(layer.q, Categorical)
    slots = layer.q.classes
    if dense and slots <= SUMMED:
        return LayerUse(slots, layer.q.joint().exp(), posterior=True)
    return LayerUse(slots, layer.draw.hard.unsqueeze(1), posterior=False)


def _relaxed_columns(chunk: Chunk, terms: Terms) -> Columns:
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
        {name: _together([one.use[name] for one in draws]) for name in draws[0].use},
    )


def _together(draws: Sequence[LayerUse]) -> LayerUse:
    """The use of the same images by several draws."""
    values = [one.values for one in draws]
    return replace(draws[0], values=torch.stack(values).mean(0) if draws[0].posterior else torch.cat(values, 1))


def joined(chunks: Sequence[Measured]) -> Measured:
    """The measurements of several chunks of images, one chunk after the other."""

    def concatenated(columns: Sequence[Columns]) -> Columns:
        return {name: torch.cat([one[name] for one in columns]) for name in columns[0]}

    labels = chunks[0].relaxed
    return Measured(
        concatenated([one.hard for one in chunks]),
        {label: concatenated([one.relaxed[label] for one in chunks]) for label in labels},
        {
            name: replace(use, values=torch.cat([one.use[name].values for one in chunks]))
            for name, use in chunks[0].use.items()
        },
    )
