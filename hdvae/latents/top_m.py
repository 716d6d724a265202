"""Sampled top-m reads: the largest weights of a relaxed sample of many classes, at a cost that does not grow with them.

The method is a race. Every class k has an exponential clock of rate π_k, which rings at its arrival time T_k. The
perturbed logit of the class is −log T_k = log π_k + g_k with Gumbel noise g_k, so the relaxed sample (eq. 4) is
z̃ ∝ T^(−1/τ). All clocks together are a Poisson process of rate 1, whose arrivals are independent draws from Cat(π).
The first m arrivals are therefore m draws from Cat(π), and their times are cumulative sums of m unit exponentials. Only
the first arrival of a class counts. The arrivals have exactly the largest weights of a sample of all classes: they are
a Gumbel-top-k sample (Kool et al. 2019, "Stochastic beams and where to find them"), enumerated from the largest
perturbed logit down, as a Gumbel process is in Maddison et al. 2014, "A* sampling".

The total weight of all other classes is bounded, and can be estimated without bias. Given the arrivals, a class of
rate π that has not arrived until T_m has the expected weight, relative to that of the first arrival,

    h(π) = ∫ π e^(−πs) (T_1/(T_m + s))^(1/τ) ds = (T_1/T_m)^a · x · F_a(x),    a = 1/τ, x = π T_m,

where F_a(x) = e^x E_a(x) with the exponential integral E_a (DLMF 8.19). Since h is concave, n such classes with the
total rate U have at most the expected weight n h(U/n). A further draw from Cat(π), weighted with h(π)/π, is an unbiased
estimate of their sum.

Shape letters: B batch, N variables, P key parts, C = m + r draws of classes: m arrivals, and r draws that estimate the
weight of all remaining classes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hdvae.experiment.experiment import RaceConfig
from hdvae.latents.distributions import Categorical
from hdvae.latents.exponential_integral import SLACK, ExponentialIntegral
from hdvae.latents.inversion import draw_classes
from hdvae.randomness.noise import NoiseSource

REPEATED_SCORE = -1e30
"""Score of a draw that repeats a class; its weight is 0 at any temperature."""
FEW = 512
"""Largest number of classes for which a table finds repeated draws faster than sorting does."""
FEWEST_ARRIVALS = 16
"""Smallest number of arrivals that `arrivals: auto` chooses."""
SEQUENCES = 4096
"""Number of simulated arrival sequences over which `expected_drop` averages."""


@dataclass(frozen=True)
class TopMSample:
    """A relaxed sample with weights for some of the classes.

    Attributes:
        slots: the class indices, the class of the largest weight first, (B, N, C). A class may occur again with weight
            0.
        scores: logarithms of their weights up to a constant, with the gradient of (log π + g)/τ, (B, N, C).
        dropped: upper bound of the expected share of the sample that belongs to the classes without an arrival, (B, N).
    """

    slots: Tensor
    scores: Tensor
    dropped: Tensor


def sample_top_m(law: Categorical, noise: Tensor, tau: float | Tensor, arrivals: int, others: int) -> TopMSample:
    """The arrivals of a relaxed sample, and weighted draws that estimate the weight of the remaining classes.

    Args:
        law: the distribution of the classes.
        noise: uniform in (0, 1), (B, N, 1 + P, C) with C ≥ arrivals + others: times, then the parts of the classes.
        tau: temperature, > 0.
        arrivals: m ≥ 1.
        others: r ≥ 0; with r = 0 the weight of the remaining classes is dropped.
    """
    noise = noise[..., : arrivals + others]
    drawn = draw_classes(law, noise[:, :, 1:])
    log_times = _arrival_times(noise[:, :, 0, :arrivals]).log()
    first, last = log_times[..., :1], log_times[..., -1:]
    scores, table = (first - log_times) / tau, ExponentialIntegral.at(tau, noise)
    if others:
        rates = drawn.pi[..., arrivals:].clamp(min=torch.finfo(noise.dtype).tiny).log()
        weights = (first - last) / tau + last + table.log_f(rates + last) - math.log(others)
        copies = _copies(drawn.slots, law.classes)[..., arrivals:]
        scores = torch.cat([scores, weights + copies.to(weights.dtype).log()], -1)
    repeated = _repeated(drawn.slots, law.classes)
    scores = torch.add(scores + drawn.tie / tau, repeated, alpha=REPEATED_SCORE)
    with torch.no_grad():
        counted = ~repeated[..., :arrivals]
        arrived = Arrivals(scores[..., :arrivals], drawn.pi[..., :arrivals], counted, last.squeeze(-1))
        dropped = arrived.dropped_share(table, ((first - last) / tau).squeeze(-1), law.classes)
    return TopMSample(drawn.slots, scores, dropped)


def _arrival_times(uniform: Tensor) -> Tensor:
    """Cumulative sums of unit exponentials, > 0, from uniform numbers in (0, 1), of which small ones are precise."""
    return uniform.neg().log1p_().neg_().cumsum_(-1)


def _repeated(slots: Tensor, classes: int) -> Tensor:
    """Whether a draw (…, C) is not the first one of its class."""
    if classes <= FEW:
        places = torch.arange(slots.shape[-1], dtype=torch.int32, device=slots.device).expand_as(slots)
        first = places.new_full((*slots.shape[:-1], classes), slots.shape[-1])
        return first.scatter_reduce_(-1, slots, places, "amin").gather(-1, slots) != places
    order, same = _ordered(slots, classes)
    return torch.empty_like(same).scatter_(0, order, same).view_as(slots)


def _copies(slots: Tensor, classes: int) -> Tensor:
    """How often the class of a draw (…, C) was drawn; valid for the first draw of each class."""
    if classes <= FEW:
        counts = slots.new_zeros(*slots.shape[:-1], classes).scatter_add_(-1, slots, torch.ones_like(slots))
        return counts.gather(-1, slots)
    order, same = _ordered(slots, classes)
    starts = torch.arange(len(same), device=slots.device).mul(~same).cummax(0).values
    counts = torch.zeros_like(order).scatter_add_(0, starts, torch.ones_like(starts))
    return torch.empty_like(counts).scatter_(0, order, counts).view_as(slots)


def _ordered(slots: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The flat indices of all draws (…, C) sorted by class, and whether each has the class and read of the one before.

    The sort is stable, so draws of the same class keep the order of the reads. One long radix sort is faster than many
    short sorts.
    """
    flat = slots.flatten()
    ordered, order = (flat.int() if classes < 2**31 else flat).sort(stable=True)
    reads = order // slots.shape[-1]
    same = torch.zeros_like(ordered, dtype=torch.bool)
    torch.logical_and(ordered[1:] == ordered[:-1], reads[1:] == reads[:-1], out=same[1:])
    return order, same


@dataclass(frozen=True)
class Arrivals:
    """The first m arrivals of a race, from which the weight of the remaining classes is bounded.

    Attributes:
        scores: log-weights, 0 for the first arrival, (…, m).
        pi: the probabilities of their classes, (…, m).
        counted: whether an arrival is the first one of its class, (…, m).
        log_last: log T_m, (…).
    """

    scores: Tensor
    pi: Tensor
    counted: Tensor
    log_last: Tensor

    def dropped_share(self, table: ExponentialIntegral, log_last_weight: Tensor, classes: int) -> Tensor:
        """An upper bound of the expected share of the sample that belongs to classes without an arrival, (…).

        It is B/(W + B), with the total weight W of the arrivals and a bound B of that of the other classes.

        Args:
            table: the exponential integral at the temperature of the scores.
            log_last_weight: log-weight of an arrival at T_m, (…).
            classes: K.
        """
        remaining = classes - self.counted.sum(-1)
        # The machine epsilon covers rounding: the result must not be below the true share.
        rate = (1 - (self.pi * self.counted).sum(-1)).clamp_(min=0) + torch.finfo(self.pi.dtype).eps
        log_x = (rate / remaining.clamp(min=1)).log() + self.log_last
        bound = (1 + SLACK) * remaining * (log_last_weight + log_x + table.log_f(log_x)).exp()
        return bound / (self.scores.exp().sum(-1) + bound)


def split_draws(config: RaceConfig, classes: int, tau: float | Tensor) -> tuple[int, int]:
    """The numbers (m, r) of arrivals and of draws that estimate the weight of the remaining classes.

    `arrivals: auto` takes the smallest m that drops no more than the tolerance (`expected_drop`), and r = 0. If that
    takes more than half of the draws, half of them are arrivals and half estimate the remaining classes; at the same
    cost this is much closer to a sample of all classes than arrivals only.
    """
    if config.arrivals != "auto":
        return config.arrivals, config.draws - config.arrivals
    half = config.draws - config.draws // 2
    temperature = float(tau.detach()) if isinstance(tau, Tensor) else tau
    for count in (FEWEST_ARRIVALS << i for i in range(10)):
        if count >= half:
            break
        if expected_drop(classes, temperature, count) <= config.tolerance:
            return count, 0
    enough = expected_drop(classes, temperature, half) <= config.tolerance
    return half, 0 if enough else config.draws // 2


@functools.lru_cache(maxsize=256)
def expected_drop(classes: int, tau: float, arrivals: int) -> float:
    """Mean of `Arrivals.dropped_share` after m arrivals of K equally likely classes, the worst case."""
    if arrivals >= classes:
        return 0.0
    source = NoiseSource.at(torch.device("cpu"), torch.float64, SEQUENCES, seed=0, purpose="expected drop", step=0)
    log_times = _arrival_times(source.uniform(arrivals)).log()
    first, last = log_times[:, :1], log_times[:, -1]
    pi, counted = torch.full_like(log_times, 1 / classes), torch.ones_like(log_times, dtype=torch.bool)
    arrived = Arrivals((first - log_times) / tau, pi, counted, last)
    log_last_weight = (first.squeeze(-1) - last) / tau
    return arrived.dropped_share(ExponentialIntegral.at(tau, log_times), log_last_weight, classes).mean().item()
