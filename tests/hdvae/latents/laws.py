"""Categorical distributions and relaxed samples for the tests of sampled top-m reads."""

import torch

from hdvae.experiment.experiment import RaceConfig
from hdvae.latents.distributions import Categorical
from tests.hdvae.oracle import source

ROWS = 20_000
AUTO = RaceConfig()


def law_of(shape, seed=0, scale=1.0, dtype=torch.float64):
    """One variable's law with `shape` classes in its parts; the logits have gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(1, 1, m, generator=generator, dtype=dtype)).requires_grad_() for m in shape]


def expanded(logits, rows):
    return Categorical([part.expand(rows, 1, -1) for part in logits])


def uniform(rows, parts, draws, seed=0, dtype=torch.float64):
    return source(rows, seed, dtype).uniform(1, 1 + parts, draws)


def whole(found, classes):
    """A race's weights as a vector over all classes, (B, K)."""
    soft = found.scores.softmax(-1)[:, 0]
    return torch.zeros(len(soft), classes, dtype=soft.dtype).scatter_add(-1, found.slots[:, 0], soft)


def dense(law, tau, seed=1):
    scores = law.joint() + source(len(law.logits[0]), seed, law.logits[0].dtype).gumbel(1, law.classes)
    return (scores / tau).softmax(-1)[:, 0]


def assert_same_mean(a, b, sigmas=4.0):
    """Means over rows of two independent samples agree in every column, within standard errors of their difference."""
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    distance = (a.mean(0) - b.mean(0)).abs()
    assert (distance <= sigmas * error + 1e-9).all(), (distance / error).max()
