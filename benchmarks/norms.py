"""Tightness and cost of certified spectral norms for each kind of layer: `python -m benchmarks.norms`.

The exact norm is the largest singular value of the explicit matrix of the map, built from its values on a basis.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.common import report
from hdvae.bounds.norms import module_norm
from hdvae.network.blocks import UpSample

CHANNELS = 4
BAR = 1.05
"""Largest allowed ratio of the bound to the exact norm of a linear layer."""


@dataclass(frozen=True)
class Layer:
    """A layer whose norm is measured.

    Attributes:
        map: the map, for inputs (B, *shape).
        module: the module with the weight.
        shape: the shape of one input.
        size: the larger grid of a convolution.
    """

    map: Callable[[Tensor], Tensor]
    module: nn.Module
    shape: tuple[int, ...]
    size: tuple[int, int] | None = None


def linear() -> Layer:
    """A linear map, as between the features of dense blocks."""
    module = weight_norm(nn.Linear(48, 64)).double()
    return Layer(module, module, (48,))


def convolution(kernel: int, stride: int, side: int) -> Layer:
    """A convolution, padded as everywhere in the network."""
    module = weight_norm(nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding=kernel // 2)).double()
    return Layer(module, module, (CHANNELS, side, side), (side, side))


def transposed(kernel: int, stride: int, side: int) -> Layer:
    """A transposed convolution to a grid of this side, as in the decoder."""
    map_ = weight_norm(nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride, padding=kernel // 2), dim=1)
    module = UpSample(map_, (side, side)).double()
    below = math.ceil(side / stride)
    return Layer(module, map_, (CHANNELS, below, below), (side, side))


KINDS: dict[str, Callable[[], Layer]] = {
    "linear 48 → 64": linear,
    "conv 3 × 3, 7 × 7": partial(convolution, 3, 1, 7),
    "conv 3 × 3, 14 × 14": partial(convolution, 3, 1, 14),
    "conv 5 × 5, 7 × 7": partial(convolution, 5, 1, 7),
    "conv 5 × 5, 14 × 14": partial(convolution, 5, 1, 14),
    "conv 3 × 3, stride 2, 7 × 7": partial(convolution, 3, 2, 7),
    "conv 3 × 3, stride 2, 14 × 14": partial(convolution, 3, 2, 14),
    "transposed 3 × 3, stride 2, to 7 × 7": partial(transposed, 3, 2, 7),
    "transposed 3 × 3, stride 2, to 14 × 14": partial(transposed, 3, 2, 14),
}


@torch.no_grad()
def slack(layer: Layer) -> tuple[float, float]:
    """The ratio of the bound to the exact norm, and the seconds to compute the bound."""
    start = time.perf_counter()
    bound = module_norm(layer.module, layer.size).item()
    seconds = time.perf_counter() - start
    basis = torch.eye(math.prod(layer.shape), dtype=torch.float64).view(-1, *layer.shape)
    rows = (layer.map(basis) - layer.map(torch.zeros_like(basis[:1]))).flatten(1)
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return bound / torch.linalg.eigvalsh(gram)[-1].sqrt().item(), seconds


def main() -> None:
    """Measure every kind of layer, and print a table and the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.norms", description=__doc__)
    parser.add_argument("--layers", type=int, default=64, help="number of random layers of each kind")
    layers = parser.parse_args().layers
    torch.manual_seed(0)
    print("| layer | bound / exact, mean | most | least | ms |\n|---|---:|---:|---:|---:|")
    by_kind = {}
    for name, make in KINDS.items():
        measured = [slack(make()) for _ in range(layers)]
        ratios = by_kind[name] = [ratio for ratio, _ in measured]
        ms = 1000 * statistics.median(seconds for _, seconds in measured)
        print(
            f"| {name} | {statistics.fmean(ratios):.4f} | {max(ratios):.4f} | {min(ratios):.4f} | {ms:.2f} |",
            flush=True,
        )
    least = min(min(ratios) for ratios in by_kind.values())
    report(
        "norms",
        {
            "linear_slack": {"value": max(by_kind["linear 48 → 64"]), "limit": BAR},
            "least_slack": {"value": least, "limit": 1.0},
        },
    )


if __name__ == "__main__":
    main()
