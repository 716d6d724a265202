"""Stochastic layers: from features to q and p, from noise to samples, and from samples to reads.

- `MemoryLayer` (eq. 2): categorical variables whose classes are the slots of a learned memory.
- `TopMLayer`: the same with sampled top-m reads (`hdvae.latents.top_m`), whose cost hardly grows with the memory.
- `NormalLayer`: normal variables, for the Gaussian baseline.

All have the interface `StochasticLayer`, and the same behavioural tests run on all of them.

Shape letters: B batch, N variables, K classes, M = √K (factored) or K (plain), P key parts (2 or 1), C classes of a
sampled top-m read, D value size, Q query size for one variable (P · d1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.latents.dense_reads import largest, perturbed, read_all, relaxed
from hdvae.latents.distributions import Categorical, Distribution, Draw, Normal, powers_of_two
from hdvae.latents.inversion import draw_classes
from hdvae.latents.sparse_reads import read_slots, tie_products
from hdvae.latents.top_m import sample_top_m, split_draws
from hdvae.randomness.noise import NoiseSource

FEW_KEYS = 256
"""Largest number of keys of a part for which the gradient of all logits is cheaper than that of the drawn classes."""
LOG_SCALE_BOUND = 8.0
"""Upper limit of |log σ| of normal variables: a safety limit, far from the values that occur in training."""


class StochasticLayer(Protocol):
    """A layer of latent variables, as the network sees it.

    The network computes the parameters of the distributions from features, once for q and once for p, and the layer
    does the rest.

    Attributes:
        variables: N.
        parameters_per_variable: number of parameters that the network computes for each variable.
        read_size: size of a read, over all variables.
    """

    variables: int
    parameters_per_variable: int
    read_size: int

    def distribution(self, raw: Tensor) -> Distribution:
        """The distribution with raw parameters (B, N · parameters_per_variable)."""
        ...

    def noise(self, source: NoiseSource) -> Tensor:
        """Noise for one sample, for both `relax` and `harden`."""
        ...

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """Noise for one hard sample by `sample`. It may be cheaper than `noise`."""
        ...

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """The relaxed sample at temperature τ > 0 from `noise`, with its gradient (eq. 4)."""
        ...

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The hard sample (τ = 0) from `noise`: H of the relaxed sample from the same noise."""
        ...

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """A hard sample from `hard_noise`."""
        ...

    def at(self, hard: Tensor) -> Draw:
        """The draw with these hard values (B, N)."""
        ...


class Keyed(Categorical):
    """A categorical distribution whose logits are products of queries and keys, computed when first needed.

    Attributes:
        queries: the queries of each key part, (B, N, Q).
        keys: the keys of each part, (N, M, Q).
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
        """See `Categorical.weights`. The products are computed for this call only, and not kept."""
        queries, keys = self.queries[part][:, variables].detach(), self.keys[part][variables].detach()
        return powers_of_two(_products(queries / math.log(2), keys))

    def tie(self, part: int, chosen: Tensor) -> Tensor:
        """See `Categorical.tie`. The gradient goes to queries and keys directly, not through all logits."""
        return tie_products(self.queries[part], self.keys[part], chosen)


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Products of queries (B, N, Q) and keys (N, M, Q): (B, N, M), with the memory layout (N, B, M)."""
    return torch.einsum("bnq,nmq->bnm", queries, keys)


class MemoryLayer(nn.Module):
    """N categorical variables, each an address into a memory of K values (eq. 2).

    log π_k = Q(h)ᵀ k_k + c with the normaliser c. With factored keys, class (a, b) has the key [k_a; k'_b], so the
    logits are sums of two sets of M = √K numbers. The prior and the posterior of a variable address the same memory:
    they share keys and values, and have different queries. Source: table 2 and appendix A of the paper, sizes d1, d2.
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
        """The values of every variable, (N, K, D), also if the variables share one table."""
        return self.values_NKD.expand(self.variables, -1, -1)

    @torch.no_grad()
    def gram(self) -> Tensor:
        """VᵀV of each table of values, (N or 1, D, D), float64."""
        return torch.stack([table.double().T @ table.double() for table in self.values_NKD])

    def distribution(self, raw: Tensor) -> Categorical:
        """The categorical distribution with queries (B, N · P · d1)."""
        queries = raw.view(len(raw), self.variables, self.key_parts, -1).unbind(2)
        keys = self.keys_PNMQ.unbind(0)
        law = Keyed(queries, keys)
        return law if self.part_classes > FEW_KEYS else Categorical(law.logits)

    def noise(self, source: NoiseSource) -> Tensor:
        """Gumbel noise for every class, (B, N, K)."""
        return source.gumbel(self.variables, self.classes)

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """Gumbel noise for the classes of each key part, (B, N, P, M): P·M numbers instead of K for each variable."""
        return source.gumbel(self.variables, self.key_parts, self.part_classes)

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """Eq. 4 over all K classes, and the read Σ_k z̃_k v_k."""
        assert isinstance(law, Categorical)
        scores, soft = relaxed(law.parts, noise, tau)
        return Draw(hard=largest(scores), read=self.read(soft), scores=scores, soft=soft, tau=tau)

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The Gumbel-max sample on the noise of `relax`."""
        assert isinstance(law, Categorical)
        return self.at(largest(perturbed(law.parts, noise)))

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """The Gumbel-max sample of each key part; the parts of a class are independent."""
        assert isinstance(law, Categorical)
        parts = [largest(noise[:, :, p] + part) for p, part in enumerate(law.parts)]
        return self.at(parts[0] if len(parts) == 1 else parts[0] * self.part_classes + parts[1])

    def read(self, weights: Tensor) -> Tensor:
        """The read Σ_k w_k v_k for weights of the slots (B, N, K): (B, N · D)."""
        return read_all(self.values_NKD, weights).flatten(1)

    def at(self, hard: Tensor) -> Draw:
        """The draw with class indices (B, N), which reads their slots."""
        variables = torch.arange(self.variables, device=hard.device)
        return Draw(hard=hard, read=self.values[variables, hard].flatten(1))


class TopMLayer(MemoryLayer):
    """A memory with sampled top-m reads (`reads: race`): a relaxed sample costs O(M + C), whatever K is.

    Hard samples follow the distribution exactly. The gradient of the values is sparse.
    """

    def __init__(self, layer: LayerConfig, config: ModelConfig) -> None:
        super().__init__(layer, config)
        self.config = config.race

    def noise(self, source: NoiseSource) -> Tensor:
        """Uniform noise for every draw, (B, N, 1 + P, C): for its arrival time, then for its class in each part."""
        return source.uniform(self.variables, 1 + self.key_parts, self.config.draws)

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """Uniform noise for one class, (B, N, P, 1)."""
        return source.uniform(self.variables, self.key_parts, 1)

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """The largest weights of eq. 4, at high τ also an estimate of the others, and their read."""
        assert isinstance(law, Categorical)
        top = sample_top_m(law, noise, tau, *split_draws(self.config, self.classes, tau))
        soft = top.scores.softmax(-1)
        return Draw(
            hard=top.slots[..., 0],
            read=read_slots(self.values_NKD, top.slots, soft).flatten(1),
            scores=top.scores,
            soft=soft,
            tau=tau,
            slots=top.slots,
            dropped=top.dropped.mean(-1),
        )

    def harden(self, law: Distribution, noise: Tensor) -> Draw:
        """The class of the largest weight: the first arrival of the race."""
        return self.sample(law, noise[:, :, 1:, :1])

    def sample(self, law: Distribution, noise: Tensor) -> Draw:
        """A sample by inversion in each key part."""
        assert isinstance(law, Categorical)
        return self.at(draw_classes(law, noise).slots.squeeze(-1))

    def at(self, hard: Tensor) -> Draw:
        """The draw with class indices (B, N), which reads their slots."""
        slots = hard.unsqueeze(-1)
        weights = torch.ones_like(slots, dtype=self.values_NKD.dtype)
        return Draw(hard=hard, read=read_slots(self.values_NKD, slots, weights).flatten(1))


class NormalLayer(nn.Module):
    """N normal variables, for the Gaussian baseline. All chains coincide, and all relaxation biases are 0.

    The only constraint on the scale is |log σ| < 8, enforced smoothly by a tanh.
    """

    def __init__(self, layer: LayerConfig) -> None:
        super().__init__()
        self.variables = layer.variables
        self.parameters_per_variable = 2
        self.read_size = layer.variables

    def distribution(self, raw: Tensor) -> Normal:
        """The normal distribution with raw parameters (B, 2N): means, then log-scales before the tanh."""
        mean, log_scale = raw.chunk(2, -1)
        return Normal(mean, LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND))

    def noise(self, source: NoiseSource) -> Tensor:
        """Standard normal noise, (B, N)."""
        return source.normal(self.variables)

    def hard_noise(self, source: NoiseSource) -> Tensor:
        """The same as `noise`."""
        return self.noise(source)

    def relax(self, law: Distribution, noise: Tensor, tau: float | Tensor) -> Draw:
        """The reparametrised sample; normal variables need no relaxation."""
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
    """The layer that the configuration asks for by `latent` and `reads`."""
    if config.latent == "normal":
        return NormalLayer(layer)
    return TopMLayer(layer, config) if config.top_m_reads else MemoryLayer(layer, config)
