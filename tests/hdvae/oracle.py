"""Small models of the real classes, and their exact values by enumeration of every latent configuration."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hdvae.bounds.exact import Exact, enumerate_exactly
from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.network.model import HDVAE
from hdvae.network.wiring import WIRINGS, Node
from hdvae.randomness.noise import NoiseSource

CPU = torch.device("cpu")
IMAGE = (2, 3)
VARIABLES = {1: (2,), 2: (2, 1), 3: (1, 1, 1)}
"""Variables of z_1 … z_L for each depth L."""
CASES = [(wiring, levels) for wiring in WIRINGS for levels in (1, 2, 3)]


def small_config(wiring: str, levels: int = 2, **changes) -> ModelConfig:
    """A few units, one block in each connection; K = 4 factored or 3 plain."""
    classes = 3 if changes.get("keys") == "plain" else 4
    settings = {
        "wiring": wiring,
        "blocks": "dense",
        "width": 6,
        "depth": 1,
        "dropout": 0.3,
        "key_size": 3,
        "value_size": 2,
        "layers": [LayerConfig(variables=n, classes=classes) for n in VARIABLES[levels]],
    }
    return ModelConfig(**{**settings, **changes, "layers": tuple(changes.get("layers", settings["layers"]))})


def build(
    config: ModelConfig, image: tuple[int, int] = IMAGE, *, seed: int = 0, contrast: float = 1.0, memory: float = 1.0
) -> HDVAE:
    """A model in float64 and evaluation mode.

    Args:
        config: the network.
        image: height and width.
        seed: of the initial weights.
        contrast: scales the heads and the decoder's last map, so that no law is near uniform.
        memory: scales the memory values, so that every context matters to what is read from it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HDVAE(config, image).double().eval()
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.ModuleDict) and name.endswith(("posteriors", "priors")):
                for parameter in part.parameters():
                    parameter.mul_(contrast)
        for parameter in model.logits.parameters():
            parameter.mul_(contrast)
        for values in model.memory_values():
            values.mul_(memory)
    return model


def source(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> NoiseSource:
    """Noise for `count` rows."""
    return NoiseSource.at(CPU, dtype, count, seed=seed, purpose="test", step=0)


def some_images(count: int, image: tuple[int, int] = IMAGE, seed: int = 1) -> Tensor:
    """Random binary images, float64."""
    return torch.randint(0, 2, (count, *image), generator=torch.Generator().manual_seed(seed)).double()


@functools.cache
def case(wiring: str, levels: int, keys: str = "factored") -> tuple[HDVAE, Tensor, Exact]:
    """A model with clearly different laws, an image and its exact values; nobody may change them."""
    model = build(small_config(wiring, levels, keys=keys), seed=levels, contrast=1.5, memory=3.0)
    x = some_images(1, seed=levels)[0]
    with torch.no_grad():
        return model, x, enumerate_exactly(model, x)


def row_of(model: HDVAE, hard: Mapping[Node, Tensor]) -> Tensor:
    """Which row of `configurations` each sample is: (B,)."""
    row = torch.zeros(len(next(iter(hard.values()))), dtype=torch.int64)
    for node in model.nodes:
        for n in range(model.layer(node).variables):
            row = row * model.layer(node).classes + hard[node][:, n]
    return row


def assert_mean(samples: Tensor, expected: float, sigmas: float = 4.0) -> None:
    """The mean of independent samples (n,) is `expected`, within some standard errors."""
    error = samples.std().item() / math.sqrt(len(samples))
    distance = abs(samples.mean().item() - expected)
    assert distance <= sigmas * error + 1e-12, f"{samples.mean().item()} is not {expected} (s.e. {error})"


def assert_law(rows: Tensor, probabilities: Tensor, level: float = 1e-4) -> None:
    """Samples (n,) of classes follow `probabilities` (C,): Pearson's test, with rare classes pooled."""
    from scipy.stats import chi2

    seen = torch.bincount(rows, minlength=len(probabilities)).double()
    expected = probabilities.double() * len(rows)
    rare = expected < 5
    cells = [(seen[~rare], expected[~rare]), (seen[rare].sum().view(1), expected[rare].sum().view(1))]
    got, wanted = (torch.cat(parts) for parts in zip(*cells, strict=True))
    keep = wanted > 1e-9
    statistic = ((got - wanted).square()[keep] / wanted[keep]).sum().item()
    assert got[~keep].sum() == 0
    assert chi2.sf(statistic, max(int(keep.sum()) - 1, 1)) > level
