"""Concrete samples of many classes from the first arrivals of a race, exactly and without touching the other classes.

Give every class an exponential clock of rate π_k. The class with the k-th arrival time T_k has the perturbed logit
−log T_k = log π_k + g_k with g Gumbel, so the relaxed sample (eq. 4) is z̃ ∝ T^(−1/τ). All clocks together are a Poisson
process of rate 1 whose arrivals are independent draws from Cat(π): the first m are m draws and a running sum of m unit
exponentials. A class counts at its first arrival alone. What is seen are exactly the largest weights of a dense sample.

What comes after T_m is bounded, and it can be estimated without bias. An unseen class of rate π has, given the
arrivals, the expected weight (relative to the first arrival's)

    h(π) = ∫ π e^(−πs) (T_1/(T_m + s))^(1/τ) ds = (T_1/T_m)^a · x · F_a(x),    a = 1/τ, x = π T_m,

where F_a(x) = e^x E_a(x) with the exponential integral E_a (DLMF 8.19). h is concave, so n unseen classes of total
rate U weigh at most n h(U/n) on average. A further draw from Cat(π) stands for the unseen ones with the weight h(π)/π.

Shape letters: B batch, N variables, P key parts, C draws of classes, m of them arrivals and r of them the tail.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdvae.experiment.experiment import RaceConfig
from hdvae.latents.distributions import Categorical

FAINTEST = 2.0**-25
"""A uniform number may be 0; this is below every other value that it can take in single precision."""
LOWEST, HIGHEST, STEP = -36.0, 12.0, 0.25
"""The grid of log x on which log F_a is tabulated."""
SLACK = 2e-3
"""Relative margin of the bound: linear interpolation of log F_a, which is concave, stays below it by less."""
NEVER = -1e30
"""Score of a draw that repeats another one: its weight is 0 at any temperature."""
CACHED = 2**20
"""Weights of classes that are made at a time: more leave the cache, and are memory that every step asks for anew."""
MANY, SLABS = 256, 8
"""From so many classes of a part on they are laid out in slabs, so many where that divides them."""
FEW = 512
"""Up to so many classes, a table of them finds repeats sooner than sorting does."""
NODES = 32
CUT = 40.0
"""The integral for F_a ends where its integrand has fallen by e^(−40)."""
FEWEST = 16
"""Arrivals that are drawn at least, where the number is chosen."""
SEQUENCES = 4096
"""Arrival sequences whose average chooses the number of arrivals."""


@dataclass(frozen=True)
class Race:
    """The classes that a relaxed sample sees.

    Attributes:
        slots: their indices, the first arrival first, (B, N, C); a class may be there again, with the weight 0.
        scores: logarithms of their weights up to a constant, (B, N, C), with the gradient of (log π + g)/τ.
        dropped: bound of the expected share of what comes after the last arrival, (B, N).
    """

    slots: Tensor
    scores: Tensor
    dropped: Tensor


@dataclass(frozen=True)
class Drawn:
    """Independent draws from a categorical law.

    Attributes:
        slots: classes, (B, N, C).
        pi: their probabilities, (B, N, C), without gradient.
        tie: zeros, (B, N, C), with the gradient of the sums of their logits. That of log π differs by the normaliser's,
            which is the same for all classes: a softmax of scores takes no notice of it.
    """

    slots: Tensor
    pi: Tensor
    tie: Tensor


def draw(law: Categorical, uniform: Tensor) -> Drawn:
    """Draw classes by inversion in each part, whose classes are independent.

    Args:
        law: of the classes.
        uniform: in [0, 1), (B, N, P, C).
    """
    each = [_draw_part(law, p, uniform[:, :, p]) for p in range(len(law.sizes))]
    a = each[0]
    if len(each) == 1:
        return Drawn(a.slots.long(), a.pi, a.tie)
    b = each[1]
    return Drawn(a.slots.long() * law.sizes[1] + b.slots, a.pi * b.pi, a.tie + b.tie)


def _draw_part(law: Categorical, part: int, uniform: Tensor) -> Drawn:
    reads, variables = uniform.shape[:2]
    most = max(1, CACHED // max(1, reads * law.sizes[part]))
    each = [slice(n, n + most) for n in range(0, variables, most)]
    found = [_inverse(law.weights(part, some), uniform[:, some]) for some in each]
    chosen, pi = found[0] if len(found) == 1 else (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return Drawn(chosen, pi, law.tie(part, chosen))


def _inverse(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Classes by inversion of uniform numbers (…, C), and their shares, both (…, C); none that has no weight.

    Running sums over all M classes would be most of a race's cost where M is large, as each waits for the one before.
    So many classes are laid out in slabs, one below the other: sums run down all columns at once, and over the totals
    of the columns one by one.

    Args:
        weights: of the classes up to a factor, (…, M); overwritten.
        uniform: in [0, 1).
    """
    slabs = math.gcd(weights.shape[-1], SLABS) if weights.shape[-1] >= MANY else 1
    columns = weights.shape[-1] // slabs
    for s in range(1, slabs):
        weights[..., s * columns :][..., :columns] += weights[..., (s - 1) * columns :][..., :columns]
    totals = weights[..., -columns:]
    cumulative = totals.cumsum(-1)
    total = cumulative[..., -1:]
    target = uniform * total
    found = _first_above(cumulative, target, torch.zeros_like(target, dtype=torch.int32), 1)
    below = cumulative.gather(-1, (found - 1).clamp_(min=0)).mul_(found > 0)
    if slabs == 1:
        return found, (cumulative.gather(-1, found) - below) / total
    nearly = totals.gather(-1, found).mul_(1 - torch.finfo(target.dtype).eps / 2)  # what rounding adds finds no class
    target = torch.minimum(target.sub_(below), nearly, out=target)
    found = _first_above(weights, target, found, columns)
    # What lies between two sums is the probability with which a class is drawn, rounding and all.
    below = weights.gather(-1, (found - columns).clamp_(min=0)).mul_(found >= columns)
    return found, (weights.gather(-1, found) - below) / total


def _first_above(sums: Tensor, target: Tensor, found: Tensor, stride: int) -> Tensor:
    """The first of the places `found`, `found` + stride, … (…, C) whose sum (…, M) is above the target, or the last.

    A binary search without branches: `searchsorted` mispredicts them, and takes two or three times as long. `found` is
    overwritten; its numbers are narrow, which saves a third.
    """
    count = sums.shape[-1] // stride
    step = 1 << (count - 1).bit_length() >> 1
    while step:
        probe = found + (step - 1) * stride
        if count & (count - 1):
            probe.clamp_(max=sums.shape[-1] - 1)
        found.add_(sums.gather(-1, probe) <= target, alpha=step * stride)
        step >>= 1
    return found.clamp_(max=sums.shape[-1] - 1) if count & (count - 1) else found


def race(law: Categorical, noise: Tensor, tau: float | Tensor, arrivals: int, tail: int) -> Race:
    """The first arrivals of a relaxed sample, and draws that stand for all others.

    Args:
        law: of the classes.
        noise: uniform in [0, 1), (B, N, 1 + P, C) with C ≥ arrivals + tail: times, then the parts of the classes.
        tau: temperature, > 0.
        arrivals: m ≥ 1.
        tail: r ≥ 0; none leaves out what comes after the m-th arrival.
    """
    noise = noise[..., : arrivals + tail]
    drawn = draw(law, noise[:, :, 1:])
    log_times = _arrival_times(noise[:, :, 0, :arrivals]).log()
    lead, last = log_times[..., :1], log_times[..., -1:]
    scores, table = (lead - log_times) / tau, Overdue.at(tau, noise)
    if tail:
        rates = drawn.pi[..., arrivals:].clamp(min=torch.finfo(noise.dtype).tiny).log()
        weights = (lead - last) / tau + last + table.log_f(rates + last) - math.log(tail)
        copies = _copies(drawn.slots, law.classes)[..., arrivals:]
        scores = torch.cat([scores, weights + copies.to(weights.dtype).log()], -1)
    repeated = _repeated(drawn.slots, law.classes)
    scores = torch.add(scores + drawn.tie / tau, repeated, alpha=NEVER)
    with torch.no_grad():
        counted = ~repeated[..., :arrivals]
        seen = Seen(scores[..., :arrivals], drawn.pi[..., :arrivals], counted, last.squeeze(-1))
        dropped = seen.share_of_rest(table, ((lead - last) / tau).squeeze(-1), law.classes)
    return Race(drawn.slots, scores, dropped)


def _arrival_times(uniform: Tensor) -> Tensor:
    """Running sums of unit exponentials, above 0."""
    return uniform.clamp(FAINTEST, 1 - FAINTEST * 2).log_().neg_().cumsum_(-1)


def _repeated(slots: Tensor, classes: int) -> Tensor:
    """Which draws (…, C) are not the first of their class."""
    if classes <= FEW:
        places = torch.arange(slots.shape[-1], dtype=torch.int32, device=slots.device).expand_as(slots)
        first = places.new_full((*slots.shape[:-1], classes), slots.shape[-1])
        return first.scatter_reduce_(-1, slots, places, "amin").gather(-1, slots) != places
    order, same = _ordered(slots, classes)
    return torch.empty_like(same).scatter_(0, order, same).view_as(slots)


def _copies(slots: Tensor, classes: int) -> Tensor:
    """For the first draw of every class (…, C) how often the class was drawn."""
    if classes <= FEW:
        counts = slots.new_zeros(*slots.shape[:-1], classes).scatter_add_(-1, slots, torch.ones_like(slots))
        return counts.gather(-1, slots)
    order, same = _ordered(slots, classes)
    starts = torch.arange(len(same), device=slots.device).mul(~same).cummax(0).values
    counts = torch.zeros_like(order).scatter_add_(0, starts, torch.ones_like(starts))
    return torch.empty_like(counts).scatter_(0, order, counts).view_as(slots)


def _ordered(slots: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """All draws of all reads (…, C) in the order of their classes, those of a read in its own: places, flat.

    And which of them follow one of the same class and read. One long sort by digits is faster than many short ones.
    """
    flat = slots.flatten()
    ordered, order = (flat.int() if classes < 2**31 else flat).sort(stable=True)
    reads = order // slots.shape[-1]
    same = torch.zeros_like(ordered, dtype=torch.bool)
    torch.logical_and(ordered[1:] == ordered[:-1], reads[1:] == reads[:-1], out=same[1:])
    return order, same


@dataclass(frozen=True)
class Seen:
    """What the arrivals of a race tell of the classes that have not arrived.

    Attributes:
        scores: of the arrivals, that of the first 0, (…, m).
        pi: of the arrivals, (…, m).
        counted: which are the first of their class, (…, m).
        log_last: log T_m, (…).
    """

    scores: Tensor
    pi: Tensor
    counted: Tensor
    log_last: Tensor

    def share_of_rest(self, table: Overdue, log_fall: Tensor, classes: int) -> Tensor:
        """B/(seen + B), at least the expected share of all classes that have not arrived (…).

        Args:
            table: at the temperature of the scores.
            log_fall: log of the weight of an arrival at T_m, (…).
            classes: K.
        """
        unseen = classes - self.counted.sum(-1)
        # What rounding may hide of the rest is allowed for: this must not fall below the truth.
        rest = (1 - (self.pi * self.counted).sum(-1)).clamp_(min=0) + torch.finfo(self.pi.dtype).eps
        log_x = (rest / unseen.clamp(min=1)).log() + self.log_last
        bound = (1 + SLACK) * unseen * (log_fall + log_x + table.log_f(log_x)).exp()
        return bound / (self.scores.exp().sum(-1) + bound)


@dataclass(frozen=True)
class Overdue:
    """log F_a(x), F_a(x) = e^x E_a(x) = ∫ e^(−xs) (1 + s)^(−a) ds, by interpolation in log x (DLMF 8.19.2).

    Attributes:
        log_f_at: on the grid.
    """

    log_f_at: Tensor

    @staticmethod
    def at(tau: float | Tensor, like: Tensor) -> Overdue:
        """The table for a = 1/τ, of the type and on the device of a tensor; differentiable in τ."""
        if isinstance(tau, Tensor):
            return Overdue(_log_f(_grid().to(like.device), 1 / tau.double()).to(like.dtype))
        return _overdue(tau, like.dtype, like.device)

    def log_f(self, log_x: Tensor) -> Tensor:
        """Log F_a at log x, any shape; the ends of the grid stand for what lies beyond them."""
        place = ((log_x - LOWEST) / STEP).clamp_(0, len(self.log_f_at) - 1.001)
        below = place.long()
        left, right = self.log_f_at[below], self.log_f_at[below + 1]
        return torch.lerp(left, right, place - below)


@functools.lru_cache(maxsize=8)
def _overdue(tau: float, dtype: torch.dtype, device: torch.device) -> Overdue:
    return Overdue(_log_f(_grid(), torch.tensor(1 / tau, dtype=torch.float64)).to(device, dtype))


@functools.cache
def _grid() -> Tensor:
    return torch.arange(LOWEST, HIGHEST + STEP, STEP, dtype=torch.float64)


@functools.cache
def _nodes() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def _log_f(log_x: Tensor, a: Tensor) -> Tensor:
    """Log F_a by quadrature over v = log(1 + s): ∫ exp(−x (e^v − 1) − (a − 1) v) dv, float64."""
    x = log_x.exp().unsqueeze(-1)
    end = torch.log1p(CUT / x)
    if a > 1:
        end = torch.minimum(end, CUT / (a.detach() - 1))
    nodes, weights = (part.to(x.device) for part in _nodes())
    v = nodes * end
    return ((-x * torch.expm1(v) - (a - 1) * v).exp() * weights * end).sum(-1).log()


def plan(config: RaceConfig, classes: int, tau: float | Tensor) -> tuple[int, int]:
    """How many of the draws are arrivals, and how many stand for the tail: (m, r).

    `arrivals: auto` takes the fewest arrivals that drop no more than the tolerance, by `expected_drop`, without a tail;
    where half of the draws are too few for that, half of them are arrivals and half the tail, which at the same cost
    is far closer to a dense sample than arrivals alone.
    """
    if config.arrivals != "auto":
        return config.arrivals, config.draws - config.arrivals
    half = config.draws - config.draws // 2
    temperature = float(tau.detach()) if isinstance(tau, Tensor) else tau
    for count in (FEWEST << i for i in range(10)):
        if count >= half:
            break
        if expected_drop(classes, temperature, count) <= config.tolerance:
            return count, 0
    enough = expected_drop(classes, temperature, half) <= config.tolerance
    return half, 0 if enough else config.draws // 2


@functools.lru_cache(maxsize=256)
def expected_drop(classes: int, tau: float, arrivals: int) -> float:
    """Mean of B/(seen + B) after m arrivals for K equally likely classes: the law that drops most."""
    if arrivals >= classes:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(SEQUENCES, arrivals, dtype=torch.float64, generator=generator)
    log_times = _arrival_times(uniform).log()
    lead, last = log_times[:, :1], log_times[:, -1]
    pi, counted = torch.full_like(log_times, 1 / classes), torch.ones_like(log_times, dtype=torch.bool)
    seen, log_fall = Seen((lead - log_times) / tau, pi, counted, last), (lead.squeeze(-1) - last) / tau
    return seen.share_of_rest(Overdue.at(tau, log_times), log_fall, classes).mean().item()
