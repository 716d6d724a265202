"""How many slots of a memory are in use, from a sample of images: perplexity and coverage with 95% intervals.

What is estimated is the use q(k) = E[q(k|x)] of the slots of one variable over all images x, of which the evaluated
ones are a sample. The entropy of the sample's own frequencies is too small, by far where there are fewer draws than
slots: a sample of n draws cannot have a perplexity above n. So what a sample cannot show is bounded, by two facts on
M_v = Σ_k q_k (1 − q_k)^v, the expected use of slots that v draws have not met:

- log M_v is convex in v, so M_n, M_(n+1), … fall at most as fast as they begin to. This bounds them from below.
- M_v ≤ K/(e v), and M_v falls. This bounds them from above.

The numbers f_1 and f_2 of slots met once and twice estimate M_n by f_1/n and the rate of its fall by 2 f_2/(n f_1)
(Good 1953). Both metrics are a part without bias and a sum over M_n, M_(n+1), …; the lower bound of the sum is also its
estimate:

- Entropy: Σ_k n_k/n (ψ(n) − ψ(n_k)) with the digamma function ψ (Zhang 2012, Entropy estimation in Turing's
  perspective, Neural Computation 24), and Σ_(v≥n) M_v/v (Chao, Wang and Jost 2013, Entropy and the species accumulation
  curve, Methods in Ecology and Evolution 4).
- Slots met in V draws: by rarefaction for V ≤ n, else those met and Σ_(n≤v<V) M_v (Chao et al. 2014, Rarefaction and
  extrapolation with Hill numbers, Ecological Monographs 84).

The draws of one image are not independent, and q(k|x) itself says more than draws from it. Therefore n_k is Kish's
effective size (Σ_x w_x)²/Σ_x w_x² of the shares w_x that slot k has of each image: the number of draws that met it if
all are of different images, and of images if q(k|x) is 0 or 1. Images are the independent units in all variances.

Shape letters: S slots that the sample has met, K all slots, N variables.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import exp1, gammaincinv, psi

Floats = NDArray[np.float64]
VISITS = 20
"""Coverage counts the slots that are met within as many draws as would meet each slot this often if all were used
alike: of uniform use 1 − e^(−20) of them."""
LEVEL = 0.0125
"""Each limit may fail with 2.5%: half for the counts f_1 or f_2, half for everything else."""
QUANTILE = 2.2414
"""The normal quantile of 1 − LEVEL."""
LARGEST_SCALED = 500.0
"""Above it e^x E_1(x) is 1/x within 0.2%, and e^x may overflow."""


@dataclass(frozen=True)
class Estimate:
    """An estimate with the limits of its 95% interval.

    If `high` is the number of all slots (perplexity) or 1 (coverage), the sample shows a lower bound only: at least
    `low`.
    """

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class SlotUse:
    """How a sample of images uses the slots of one variable.

    Attributes:
        slots: K.
        images: their number.
        mass: the share of each met slot, (S,), with the sum 1.
        met: the effective number of draws that met it, n_k ≥ 1, (S,).
        by_image: from a value of each met slot (S,) to its mean over the use of each image, (images,).
    """

    slots: int
    images: int
    mass: Floats
    met: Floats
    by_image: Callable[[Floats], Floats]

    @staticmethod
    def of_draws(codes: NDArray[np.int64], slots: int) -> SlotUse:
        """The use by hard samples (images, draws) of K slots."""
        images, draws = codes.shape
        keys, counts = np.unique(codes + slots * np.arange(images)[:, None], return_counts=True)
        image = keys // slots
        weights: Floats = counts / draws
        _, place = np.unique(keys % slots, return_inverse=True)
        total = np.bincount(place, weights)
        effective = total**2 / np.bincount(place, weights**2)

        def by_image(values: Floats) -> Floats:
            means: Floats = np.bincount(image, weights * values[place], images).astype(np.float64, copy=False)
            return means

        return SlotUse(slots, images, total / images, effective, by_image)

    @staticmethod
    def of_posteriors(posteriors: Floats) -> SlotUse:
        """The use by q(k|x) itself, (images, K)."""
        images, slots = posteriors.shape
        met = posteriors.sum(0) > np.finfo(np.float32).tiny
        weights = posteriors[:, met] / posteriors[:, met].sum(1, keepdims=True)
        total = weights.sum(0)
        return SlotUse(slots, images, total / images, total**2 / (weights**2).sum(0), lambda values: weights @ values)

    @functools.cached_property
    def draws(self) -> Floats:
        """The effective number of draws of which `met` met each slot, (S,): n, if all draws are independent."""
        return self.met / self.mass

    @functools.cached_property
    def met_once(self) -> Floats:
        """How far each slot was met once, (S,): 1 for n_k = 1, 0 from 1.5 on, as for unequal shares of two images."""
        share: Floats = np.clip(3 - 2 * self.met, 0, 1)
        return share

    @functools.cached_property
    def met_twice(self) -> Floats:
        """How far each slot was met twice, (S,): 1 for n_k from 1.5 to 2, 0 for n_k = 1 and from 3 on."""
        share: Floats = np.clip(np.minimum(2 * self.met - 2, 3 - self.met), 0, 1)
        return share

    @functools.cached_property
    def once(self) -> float:
        """f_1, the number of slots that were met once."""
        return float(self.met_once.sum())

    @functools.cached_property
    def twice(self) -> float:
        """f_2, the number of slots that were met twice."""
        return float(self.met_twice.sum())

    @functools.cached_property
    def size(self) -> float:
        """n, the effective number of draws: of the slots that were met once, or of all if there are none."""
        unmet = float((self.met_once * self.mass).sum())  # M_n, the use of slots that were not met
        return self.once / unmet if unmet > 0 else 1 / float((self.mass / self.draws).sum())

    def estimate(self, known: float, prices: Floats, rest: _Rest) -> tuple[float, float, float]:
        """An estimate and its limits.

        Args:
            known: the part without bias.
            prices: n times what this part loses if one draw of a slot is left out, (S,).
            rest: the part that the sample does not show.
        """
        once, twice = self.once, self.twice
        surely_twice, surely_once = poisson_limit(twice), poisson_limit(once)

        def error(slope: float) -> float:
            """The standard error of the known part plus slope · f_1: leaving a draw out changes f_1 as well."""
            change = self.size * slope * (self.met_once - self.met_twice) if slope else 0.0
            influence = self.by_image(prices + change)
            return float(influence.std(ddof=1)) / math.sqrt(len(influence)) if len(influence) > 1 else math.inf

        low, high = rest.at_least(once, surely_twice), rest.at_most(surely_once)
        low_slope = rest.at_least(once + 1, surely_twice) - low if once else 0.0
        high_slope = rest.at_most(surely_once + 1) - high if once else 0.0
        return (
            known + rest.at_least(once, max(twice, 1.0)),
            known + low - QUANTILE * error(low_slope),
            known + high + QUANTILE * error(high_slope),
        )


@dataclass(frozen=True)
class _Rest:
    """What a sample does not show, as a function of f_1 and f_2.

    Attributes:
        at_least: (f_1, f_2) → a lower bound.
        at_most: f_1 → an upper bound.
    """

    at_least: Callable[[float, float], float]
    at_most: Callable[[float], float]


def perplexity(use: SlotUse) -> Estimate:
    """Exp of the entropy of q(k), the effective number of slots in use, 1 to K."""
    images = use.images
    entropy = float((use.mass * (np.log(use.draws) - psi(use.met))).sum() + psi(images) - math.log(images))
    prices = np.log(use.draws) - psi(use.met) - np.minimum(use.met - 1, 1)
    rest = _Rest(
        lambda once, twice: once / use.size * _scaled_exp1(2 * twice / once) if once else 0.0,
        lambda once: (few := min(once, use.slots / math.e)) / use.size * math.log(use.slots / few),
    )
    most = math.log(use.slots)
    value, low, high = (math.exp(h) if h < most else use.slots for h in use.estimate(entropy, prices, rest))
    return _ordered(value, max(low, 1.0), high)


def coverage(use: SlotUse) -> Estimate:
    """The expected share of slots that are met within VISITS · K draws from q(k), 0 to 1.

    Of slots with a twentieth of their fair share 63% are met, with a fair share all but 2 in a billion.
    """
    slots, draws = use.slots, VISITS * use.slots
    share = np.minimum(draws / use.draws, 1.0)
    known = float((1 - (1 - share) ** use.met).sum())
    prices = use.draws * share * (1 - share) ** (use.met - 1)
    longer = draws / use.size
    rest = _Rest(
        lambda once, twice: _more_slots(once, 2 * twice / once, longer) if once else 0.0,
        lambda once: _most_slots(min(once, slots / math.e), longer, slots),
    )
    value, low, high = use.estimate(known, prices, rest)
    low -= 1  # where every slot was met, the variance is estimated as 0; the limit is not finer than one slot
    return _ordered(*(min(max(count / slots, 0.0), 1.0) for count in (value, low, high)))


def poisson_limit(count: float) -> float:
    """The upper limit of the mean of a Poisson variable that was `count`, at the level LEVEL."""
    return float(gammaincinv(count + 1, 1 - LEVEL))


def _ordered(value: float, low: float, high: float) -> Estimate:
    return Estimate(min(max(value, low), high), low, high)


def _scaled_exp1(x: float) -> float:
    """E^x E_1(x) = n Σ_(v≥n) M_v/v / f_1, for large n, if M_v falls as e^(−x v/n)."""
    return math.exp(x) * float(exp1(x)) if x < LARGEST_SCALED else 1 / x


def _more_slots(once: float, x: float, longer: float) -> float:
    """Σ_(n≤v<longer·n) M_v if M_v falls as e^(−x v/n) from M_n = f_1/n."""
    return once * -math.expm1(-x * max(longer - 1, 0.0)) / x


def _most_slots(once: float, longer: float, slots: int) -> float:
    """Σ_(n≤v<longer·n) min(f_1/n, K/(e v))."""
    if longer <= 1:
        return 0.0
    bend = slots / (math.e * once)
    if longer <= bend:
        return once * (longer - 1)
    return once * (bend - 1) + slots / math.e * math.log(longer / bend)


def slot_metrics(uses: Iterable[SlotUse]) -> dict[str, float]:
    """The metrics of the N variables of one memory: means over the variables of the estimates and of their limits.

    They are NaN where a probability is not finite: then no slot was met.
    """
    metrics = {}
    pairs = [(perplexity(use), coverage(use)) if len(use.mass) else (UNKNOWN, UNKNOWN) for use in uses]
    for name, each in zip(("perplexity", "coverage"), zip(*pairs, strict=True), strict=True):
        metrics[name] = statistics.fmean(one.value for one in each)
        metrics[f"{name}_low"] = statistics.fmean(one.low for one in each)
        metrics[f"{name}_high"] = statistics.fmean(one.high for one in each)
    return metrics
