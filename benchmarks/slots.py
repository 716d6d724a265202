"""Are the 95% intervals of perplexity and coverage right? `python -m benchmarks.slots`.

Uses of the slots of a memory are simulated: a law q(k) of the slots, and independent draws from it, one for each image.
The benchmark counts how many intervals of `hdvae.evaluation.slot_use` contain the true values, and how many lower
limits are below them. Where a sample has as many draws as the memory slots, the first must be 93% or more; with fewer
draws (2,500) the second must be 97.5% or more.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import report
from hdvae.evaluation.slot_use import VISITS, SlotUse, coverage, perplexity

Law = NDArray[np.float64]
INTERVALS, LOWER_LIMITS = 0.93, 0.975
"""Smallest share of intervals, and of lower limits, that must be right."""
FEW_DRAWS = 2500
"""Draws in a sample that is smaller than the memory."""
ROUNDING = 1e-9
"""Relative error that is no error of a limit."""


def _normalised(weights: Law) -> Law:
    law: Law = weights / weights.sum()
    return law


USES: dict[str, Callable[[int, np.random.Generator], Law]] = {
    "uniform": lambda slots, rng: np.full(slots, 1 / slots),
    "zipf": lambda slots, rng: _normalised(1 / np.arange(1, slots + 1)),
    "geometric": lambda slots, rng: _normalised(np.exp(-8 * np.arange(slots) / slots)),
    "dirichlet": lambda slots, rng: _normalised(rng.gamma(0.3, size=slots)),
    "quarter": lambda slots, rng: _normalised((np.arange(slots) < slots // 4).astype(float)),
}
"""Laws of K slots: name → (K, generator) → q(k). The last one leaves three quarters of the slots unused."""


def true_values(law: Law) -> dict[str, float]:
    """Perplexity and coverage of a law."""
    used = law[law > 0]
    met = -np.expm1(VISITS * len(law) * np.log1p(-law))
    return {"perplexity": math.exp(-(used * np.log(used)).sum()), "coverage": float(met.mean())}


def simulated(law: Law, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Independent draws from a law, one for each image, (draws, 1); sorted, since their order does not matter."""
    below = law.cumsum()
    slots: NDArray[np.int64] = np.searchsorted(below, below[-1] * np.sort(rng.random(draws)), side="right")
    return slots[:, None]


def covered(use: str, slots: int, draws: int, count: int, seed: int = 0) -> tuple[dict[str, int], dict[str, int]]:
    """How many of `count` intervals contain the true value, and how many lower limits are not above it, by metric."""
    rng = np.random.default_rng([seed, slots, draws, list(USES).index(use)])
    law = USES[use](slots, rng)
    true, both, low = true_values(law), {"perplexity": 0, "coverage": 0}, {"perplexity": 0, "coverage": 0}
    for _ in range(count):
        sample = SlotUse.of_draws(simulated(law, draws, rng), slots)
        for name, metric in (("perplexity", perplexity), ("coverage", coverage)):
            found = metric(sample)
            below = found.low <= true[name] * (1 + ROUNDING)
            low[name] += below
            both[name] += below and true[name] * (1 - ROUNDING) <= found.high
    return both, low


def main() -> None:
    """Simulate every use of every memory, and print the shares that are right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="simulated samples of each use (default: %(default)s)")
    parser.add_argument("--slots", type=int, nargs="+", default=[2**8, 2**12, 2**16, 2**20])
    parser.add_argument("--uses", nargs="+", choices=USES, default=list(USES))
    options = parser.parse_args()
    worst = {"intervals": 1.0, "lower_limits": 1.0}
    print("slots | draws | use | right: perplexity | coverage | counted")
    for slots in options.slots:
        for draws, kind in ((slots, "intervals"), (FEW_DRAWS, "lower_limits")):
            if kind == "lower_limits" and draws >= slots:
                continue
            for use in options.uses:
                right = covered(use, slots, draws, options.count)[kind == "lower_limits"]
                shares = [right[name] / options.count for name in ("perplexity", "coverage")]
                worst[kind] = min(worst[kind], *shares)
                print(f"{slots} | {draws} | {use} | {shares[0]:.3f} | {shares[1]:.3f} | {kind}", flush=True)
    limits = {"intervals": INTERVALS, "lower_limits": LOWER_LIMITS}
    report("slots", {f"{kind}_right": {"value": worst[kind], "limit": limits[kind]} for kind in worst})


if __name__ == "__main__":
    main()
