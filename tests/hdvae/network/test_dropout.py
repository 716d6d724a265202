"""Dropout: its law, its masks as functions of names and images, and its limits."""

import copy

import pytest
import torch
from scipy.stats import binomtest

from hdvae.network.dropout import Dropout, dropping
from hdvae.randomness.noise import NoiseSource
from tests.hdvae.oracle import CPU


def noise(count, first=0, step=0):
    def of(purpose):
        return NoiseSource.at(CPU, torch.float64, count, seed=0, purpose=purpose, step=step, first=first)

    return of


def passes(modules, x, source):
    with dropping(modules, source):
        return [module(x) for module in modules]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1 - 1e-9])
def test_what_is_kept_is_scaled_by_its_exact_probability(rate):
    module, x = Dropout(rate), torch.ones(64, 1000, dtype=torch.float64)
    (out,) = passes([module], x, noise(64))
    kept = module.kept / 2**16
    assert kept == pytest.approx(max(1 - rate, 2**-16), abs=2**-17)
    assert set(out.unique().tolist()) <= {0.0, 1 / kept}
    assert binomtest(int((out > 0).sum()), out.numel(), kept).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.0, 1e-6])
def test_a_rate_of_zero_needs_no_noise(rate):
    x = torch.randn(3, 4)
    assert Dropout(rate)(x) is x


def test_it_is_off_in_evaluation():
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x


def test_training_without_noise_is_refused():
    module = Dropout(0.5)
    passes([module], torch.ones(2, 3), noise(2))
    with pytest.raises(RuntimeError, match="needs noise"):
        module(torch.ones(2, 3))


def test_another_number_of_images_is_refused():
    with pytest.raises(RuntimeError, match="invalid"):
        passes([Dropout(0.5)], torch.ones(5, 3), noise(2))


def test_modules_steps_and_passes_have_masks_of_their_own():
    x, modules = torch.ones(4, 64), [Dropout(0.5), Dropout(0.5)]
    masks = [*passes(modules, x, noise(4)), *passes(modules, x, noise(4, step=1))]
    with dropping(modules, noise(4)):
        masks += [modules[0](x) for _ in range(3)][1:]
    for i, one in enumerate(masks):
        assert not any(torch.equal(one, other) for other in masks[:i])


def test_the_mask_of_an_image_depends_on_its_index_alone():
    x, modules = torch.ones(40, 3, 5, 5), [Dropout(0.5)]
    (whole,) = passes(modules, x, noise(40))
    for first, last in ((0, 7), (7, 24), (24, 40)):
        (share,) = passes(modules, x[first:last], noise(last - first, first))
        assert torch.equal(share, whole[first:last])


def test_copies_of_the_batch_have_masks_of_their_own_wherever_an_image_is():
    """Several samples of each image go through the network as copies of the batch, one after another."""
    x, modules = torch.ones(3 * 8, 20), [Dropout(0.5)]
    (whole,) = passes(modules, x, noise(8))
    one, two, three = whole.view(3, 8, 20)
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)
    (share,) = passes(modules, x[: 3 * 5], noise(5, first=3))
    assert torch.equal(share.view(3, 5, 20), whole.view(3, 8, 20)[:, 3:])


def test_a_copy_of_a_module_draws_the_same():
    module = Dropout(0.5)
    x = torch.ones(4, 50)
    assert torch.equal(*[passes([one], x, noise(4))[0] for one in (module, copy.deepcopy(module))])


def test_the_gradient_passes_through_the_mask():
    x = torch.ones(4, 50, requires_grad=True)
    (out,) = passes([Dropout(0.3)], x, noise(4))
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
