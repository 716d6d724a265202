"""Relaxed samples and reads of all slots, against the formulas as they stand in the paper."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from hdvae.latents.dense_reads import largest, perturbed, read_all, relaxed

B, N, D = 5, 3, 2


def some(sizes, dtype=torch.float64):
    """Log-probabilities of each key part, laid out as products of queries and keys are, and noise."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(N, B, m, dtype=dtype, generator=generator).transpose(0, 1) for m in sizes]
    noise = torch.randn(B, N, math.prod(sizes), dtype=dtype, generator=generator)
    return [part.log_softmax(-1).detach().requires_grad_() for part in parts], noise


def plain_sum(parts, noise):
    """Class by class."""
    sums = torch.empty_like(noise)
    for k in range(noise.shape[-1]):
        places = (k,) if len(parts) == 1 else divmod(k, parts[1].shape[-1])
        sums[..., k] = noise[..., k] + sum(part[..., place] for part, place in zip(parts, places, strict=True))
    return sums


@pytest.mark.parametrize("sizes", [(7,), (3, 3), (4, 2)])
@pytest.mark.parametrize("learned", [False, True])
def test_scores_weights_and_gradients_are_those_of_the_formula(sizes, learned):
    parts, noise = some(sizes)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True) if learned else 0.3
    before = noise.clone()
    torch.testing.assert_close(perturbed(parts, noise), plain_sum(parts, noise))
    scores, soft = relaxed(parts, noise, tau)
    assert torch.equal(noise, before), "noise serves another chain too"
    wanted_scores = plain_sum(parts, noise) / tau
    wanted = wanted_scores.softmax(-1)
    torch.testing.assert_close(scores, wanted_scores)
    torch.testing.assert_close(soft, wanted)
    weight = torch.randn_like(soft)
    inputs = [*parts, tau] if learned else parts
    for function in (
        lambda s, z: (weight * z).sum(),
        lambda s, z: (weight * s).sum(),
        lambda s, z: (weight * z * s.sin()).sum(),
    ):
        got = torch.autograd.grad(function(scores, soft), inputs, retain_graph=True)
        expected = torch.autograd.grad(function(wanted_scores, wanted), inputs, retain_graph=True)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("sizes", [(4,), (2, 2)])
def test_gradients_by_differences(sizes):
    parts, noise = some(sizes)
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda tau, *parts: relaxed(parts, noise, tau), (tau, *parts))


@pytest.mark.parametrize("tables", [1, N])
def test_reads_and_their_gradients_are_those_of_the_sum(tables):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(tables, 7, D, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.rand(B, N, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    read, expected = read_all(values, weights), torch.einsum("bnk,nkd->bnd", weights, values.expand(N, -1, -1))
    torch.testing.assert_close(read, expected)
    got = torch.autograd.grad(read.exp().sum(), (weights, values))
    wanted = torch.autograd.grad(expected.exp().sum(), (weights, values))
    torch.testing.assert_close(got, wanted)
    assert gradcheck(read_all, (values, weights))
    torch.testing.assert_close(read_all(values, weights.detach()).detach(), expected.detach())


@pytest.mark.parametrize("classes", [1, 5, 256])
def test_the_largest_is_the_first_of_the_largest(classes):
    scores = torch.randint(0, 3, (B, N, classes), generator=torch.Generator().manual_seed(2)).float()
    assert torch.equal(largest(scores), scores.argmax(-1))
    assert torch.equal(largest(scores.transpose(0, 1)), scores.transpose(0, 1).argmax(-1))
    assert largest(scores).dtype == torch.int64
