"""Stochastic layers: from features to q and p, from noise to samples, from samples to what is read.

A `MemoryLayer` (eq. 2) holds categorical variables whose classes are the slots of a learned memory; a `RaceLayer` is
one whose relaxed samples see the first arrivals of a race, so that its cost hardly grows with the memory; a
`NormalLayer` is the Gaussian baseline in its place. All keep the interface of `StochasticLayer`, and the same
behavioural tests run over them.

Shape letters: B batch, N variables, K classes, M = √K (factored) or K (plain), P key parts (2 or 1), C classes that are
seen, D value size, Q query size for one variable (P · d1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.latents.distributions import Categorical, Distribution, Draw, Normal, powers_of_two
from hdvae.latents.sparse_reads import read_slots, tie_products
from hdvae.latents.top_m import draw, plan, race
from hdvae.randomness.noise import NoiseSource

FEW_KEYS = 256
"""Keys of a part up to which the gradient of all logits costs less than that of some."""
LOG_SCALE_BOUND = 8.0
"""|log σ| of normal variables stays below it: a safety bound, far from where training goes."""


class StochasticLayer(Protocol):
    """What the network needs of a layer of latent variables.

    The parameters that a layer asks the network for (`parameters_per_variable` for each variable) are computed
    from features by the network, once for q and once for p; the layer owns everything behind them.
    """

    variables: int
    parameters_per_variable: int
    read_size: int

    def distribution(self, raw: Tensor) -> Distribution:
        """The law with raw parameters (B, N · parameters_per_variable)."""
        ...

    def noise(self, source: NoiseSource) -> Tensor:
        """Noise for one sample, shared by the relaxed and the hard chain."""
        ...

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """Noise for one hard sample that need not be shared with a relaxed one; it may be cheaper."""
        ...

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """The relaxed sample at temperature τ > 0, with its gradient (eq. 4)."""
        ...

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The hard sample on the same noise as `relax`: τ = 0."""
        ...

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """A hard sample from `hard_noise`."""
        ...

    def at(self, hard: Tensor) -> Draw:
        """The draw that has these hard values (B, N)."""
        ...


class Keyed(Categorical):
    """A categorical law that knows its logits to be products of queries and keys, and has them when they are asked for.

    Attributes:
        queries: of each part, (B, N, Q).
        keys: of each part, (N, M, Q).
    """

    def __init__(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> None:
        self.queries, self.keys = queries, keys

    @functools.cached_property
    def logits(self) -> list[Tensor]:  # type: ignore[override]
        """See `Categorical`."""
        return [_products(q, k) for q, k in zip(self.queries, self.keys, strict=True)]

    @property
    def sizes(self) -> Sequence[int]:
        """M of each part."""
        return [keys.shape[1] for keys in self.keys]

    def weights(self, part: int, variables: slice) -> Tensor:
        """See `Categorical.weights`; of products that are made for them, and not kept."""
        queries, keys = self.queries[part][:, variables].detach(), self.keys[part][variables].detach()
        return powers_of_two(_products(queries / math.log(2), keys))

    def tie(self, part: int, chosen: Tensor) -> Tensor:
        """See `Categorical.tie`; the gradient goes to queries and keys directly, without one of all logits."""
        return tie_products(self.queries[part], self.keys[part], chosen)


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Of queries (B, N, Q) and keys (N, M, Q), (B, N, M); in memory (N, B, M)."""
    return torch.einsum("bnq,nmq->bnm", queries, keys)


class MemoryLayer(nn.Module):
    """N categorical variables, each an address into a memory of K values of its own (eq. 2).

    log π_k = Q(h)ᵀ k_k + c, with c the normaliser. Factored keys: class (a, b) has the key [k_a; k'_b], so the
    logits are sums of two sets of M = √K. The prior and the posterior of a variable address the same memory:
    they share keys and values, and differ in the query. Table 2 and appendix A of the paper; sizes d1, d2.
    """

    def __init__(self, layer: LayerConfig, config: ModelConfig) -> None:
        super().__init__()
        self.variables, self.classes = layer.variables, layer.classes
        self.key_parts = 2 if config.keys == "factored" else 1
        self.part_classes = math.isqrt(layer.classes) if self.key_parts == 2 else layer.classes
        self.parameters_per_variable = self.key_parts * config.key_size
        self.read_size = layer.variables * config.value_size
        self.keys_PNMQ = nn.Parameter(torch.randn(self.key_parts, self.variables, self.part_classes, config.key_size))
        tables = 1 if config.shared_values else self.variables
        self.values_NKD = nn.Parameter(torch.randn(tables, self.classes, config.value_size))

    @property
    def values(self) -> Tensor:
        """The values of every variable, (N, K, D), also where they share them."""
        return self.values_NKD.expand(self.variables, -1, -1)

    @torch.no_grad()
    def gram(self) -> Tensor:
        """VᵀV of each table of values, (N or 1, D, D), float64."""
        return torch.stack([table.double().T @ table.double() for table in self.values_NKD])

    def distribution(self, raw: Tensor) -> Categorical:
        """The categorical law of queries (B, N · P · d1)."""
        queries = raw.view(len(raw), self.variables, self.key_parts, -1).unbind(2)
        keys = self.keys_PNMQ.unbind(0)
        law = Keyed(queries, keys)
        return law if self.part_classes > FEW_KEYS else Categorical(law.logits)

    def noise(self, source: NoiseSource) -> Tensor:
        """Gumbel noise for every class, (B, N, K)."""
        return source.gumbel(self.variables, self.classes)

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """Gumbel noise for every class of each key part, (B, N, P, M): P·M numbers instead of K."""
        return source.gumbel(self.variables, self.key_parts, self.part_classes)

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """Eq. 4 over all K classes, and the read Σ_k z̃_k v_k."""
        assert isinstance(law, Categorical)
        scores = (law.joint() + noise) / tau
        soft = scores.softmax(-1)
        return Draw(hard=scores.argmax(-1), read=self.read(soft), scores=scores, soft=soft, tau=tau)

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The Gumbel-max sample on the noise of `relax`."""
        assert isinstance(law, Categorical)
        return self.at((law.joint() + noise).argmax(-1))

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """Gumbel-max in each key part: the parts of a class are independent under the law."""
        assert isinstance(law, Categorical)
        parts = [(part + noise[:, :, p]).argmax(-1) for p, part in enumerate(law.parts)]
        return self.at(parts[0] if len(parts) == 1 else parts[0] * self.part_classes + parts[1])

    def read(self, weights: Tensor) -> Tensor:
        """What the memory returns for weights of its slots (B, N, K): Σ_k w_k v_k, (B, N · D)."""
        return torch.einsum("bnk,nkd->bnd", weights, self.values).flatten(1)

    def at(self, hard: Tensor) -> Draw:
        """Read the slots at class indices (B, N)."""
        variables = torch.arange(self.variables, device=hard.device)
        return Draw(hard=hard, read=self.values[variables, hard].flatten(1))


class RaceLayer(MemoryLayer):
    """A memory with relaxed samples from `hdvae.latents.top_m`: O(M + C) for each, however many classes there are.

    Hard samples follow the law exactly: they are the first arrivals. The gradient of the values is sparse.
    """

    def __init__(self, layer: LayerConfig, config: ModelConfig) -> None:
        super().__init__(layer, config)
        self.race = config.race

    def noise(self, source: NoiseSource) -> Tensor:
        """Uniform noise for every draw: of its time, then of its class in each part, (B, N, 1 + P, C)."""
        return source.uniform(self.variables, 1 + self.key_parts, self.race.draws)

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """Uniform noise for one class, (B, N, P, 1)."""
        return source.uniform(self.variables, self.key_parts, 1)

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """The largest weights of eq. 4 and what is read with them; at high τ draws that stand for the others."""
        assert isinstance(law, Categorical)
        seen = race(law, noise, tau, *plan(self.race, self.classes, tau))
        soft = seen.scores.softmax(-1)
        return Draw(
            hard=seen.slots[..., 0],
            read=read_slots(self.values_NKD, seen.slots, soft).flatten(1),
            scores=seen.scores,
            soft=soft,
            tau=tau,
            slots=seen.slots,
            dropped=seen.dropped.mean(-1),
        )

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The first arrival."""
        return self.sample(law, noise[:, :, 1:, :1])

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """A class by inversion in each part."""
        assert isinstance(law, Categorical)
        return self.at(draw(law, noise).slots.squeeze(-1))

    def at(self, hard: Tensor) -> Draw:
        """Read the slots at class indices (B, N)."""
        slots = hard.unsqueeze(-1)
        weights = torch.ones_like(slots, dtype=self.values_NKD.dtype)
        return Draw(hard=hard, read=read_slots(self.values_NKD, slots, weights).flatten(1))


class NormalLayer(nn.Module):
    """N normal variables: the Gaussian baseline. All its chains coincide, and biases are 0.

    The scale may shrink as far as the data want: only |log σ| < 8 is enforced, smoothly.
    """

    def __init__(self, layer: LayerConfig) -> None:
        super().__init__()
        self.variables = layer.variables
        self.parameters_per_variable = 2
        self.read_size = layer.variables

    def distribution(self, raw: Tensor) -> Normal:
        """The normal law of raw parameters (B, 2N): means, then log-scales before the bound."""
        mean, log_scale = raw.chunk(2, -1)
        return Normal(mean, LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND))

    def noise(self, source: NoiseSource) -> Tensor:
        """Standard normal noise, (B, N)."""
        return source.normal(self.variables)

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """The same as `noise`."""
        return self.noise(source)

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """The reparametrised sample: a normal variable needs no relaxation."""
        return self.harden(law, noise)

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The reparametrised sample."""
        assert isinstance(law, Normal)
        return self.at(law.mean + law.log_scale.exp() * noise)

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """The reparametrised sample."""
        return self.harden(law, noise)

    def at(self, hard: Tensor) -> Draw:
        """The draw with these values (B, N)."""
        return Draw(hard=hard, read=hard)


def stochastic_layer(layer: LayerConfig, config: ModelConfig) -> MemoryLayer | NormalLayer:
    """The layer of `latent: categorical | normal`, with dense reads or races."""
    if config.latent == "normal":
        return NormalLayer(layer)
    return RaceLayer(layer, config) if config.races else MemoryLayer(layer, config)
