"""Bounds of spectral norms against the exact norms of explicit matrices."""

import math
import random

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hdvae.bounds.norms import conv_norm, matrix_norm, module_norm
from hdvae.network.blocks import UpSample
from hdvae.network.contractions import AlmostOrthogonal, contraction

LAYERS_OF_EACH_KIND = 125


def exact_norm(linear, shape):
    """The largest singular value of the matrix of a map without its bias, on inputs of the shape."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    rows = (linear(basis) - linear(torch.zeros_like(basis[:1]))).flatten(1)
    return torch.linalg.svdvals(rows).max().item()


def randomise(module):
    """Weights of random sizes, some of them in a few directions or of one sign."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, mean=random.choice([0, 0, 1]), std=10 ** random.uniform(-3, 2))
    return module.double()


def image(smallest=1):
    return random.randint(smallest, 8), random.randint(smallest, 8)


def wrapped(module, dim=0):
    return weight_norm(module, dim=dim) if random.random() < 0.5 else module


def linear():
    module = randomise(wrapped(nn.Linear(random.randint(1, 20), random.randint(1, 20))))
    return module, module, None, (module.in_features,)


def convolution(strides=(1, 2, 3), smallest=1):
    kernel = random.choice([1, 3, 5])
    inputs, outputs = random.randint(1, 4), random.randint(1, 4)
    module = randomise(wrapped(nn.Conv2d(inputs, outputs, kernel, random.choice(strides), padding=kernel // 2)))
    size = image(smallest)
    return module, module, size, (inputs, *size)


def odd_convolution():
    """Even kernels, and every padding: less than half the kernel, and more than all of it."""
    inputs, outputs, kernel = random.randint(1, 3), random.randint(1, 3), random.randint(1, 4)
    module = nn.Conv2d(inputs, outputs, kernel, random.randint(1, 4), padding=random.randint(0, kernel + 1))
    size = image(smallest=4)
    return randomise(module), module, size, (inputs, *size)


def up_sample():
    """As in the decoder, where the weight is always normalised."""
    channels, kernel, stride, size = random.randint(1, 4), random.choice([1, 3, 5]), random.randint(1, 3), image()
    map_ = nn.ConvTranspose2d(channels, channels, kernel, stride, padding=kernel // 2)
    module = randomise(UpSample(weight_norm(map_, dim=1), size))
    return module, module.map, size, (channels, *(math.ceil(side / stride) for side in size))


def slack(make):
    whole, module, size, shape = make()
    exact = exact_norm(whole, shape)
    with torch.no_grad():
        bound = module_norm(module, size)
    assert bound.dtype == torch.float64
    assert bound.shape == ()
    return bound.item() / exact if exact else 1 + bound.item()


@pytest.mark.parametrize(
    ("make", "limit"), [(linear, 1 + 1e-8), (convolution, 3), (odd_convolution, 4), (up_sample, 3)]
)
def test_the_bound_is_never_below_the_exact_norm(make, limit):
    random.seed(0), torch.manual_seed(0)
    slacks = [slack(make) for _ in range(LAYERS_OF_EACH_KIND)]
    assert min(slacks) >= 1
    assert max(slacks) <= limit


def test_the_bound_of_a_convolution_is_close_from_six_pixels_on():
    random.seed(1), torch.manual_seed(1)
    slacks = [slack(lambda: convolution(strides=(1, 2), smallest=6)) for _ in range(60)]
    assert max(slacks) <= 1.5
    assert sum(slacks) / len(slacks) <= 1.15


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_bound_is_exact_on_one_pixel(kernel, stride):
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, kernel, stride, padding=kernel // 2).double()
    torch.testing.assert_close(module_norm(module, (1, 1)).item(), exact_norm(module, (3, 1, 1)), rtol=1e-8, atol=0)


def test_the_bound_is_exact_for_kernels_of_one_tap():
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 1).double()
    torch.testing.assert_close(module_norm(module, (5, 3)).item(), exact_norm(module, (3, 5, 3)), rtol=1e-8, atol=0)


def test_kernels_may_be_oblong():
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, (1, 4), 2, padding=1).double()
    assert 1 <= module_norm(module, (5, 6)).item() / exact_norm(module, (2, 5, 6)) <= 1.5


def test_single_precision_weights_are_bounded_as_they_are():
    torch.manual_seed(0)
    for shape in [(3, 3), (200, 7), (7, 200)]:
        weight = torch.randn(shape)
        exact = torch.linalg.svdvals(weight.double())[0]
        assert exact <= matrix_norm(weight) <= exact * (1 + 1e-8)


@pytest.mark.parametrize(
    ("shape", "norm"),
    [
        ((4, 6), matrix_norm),
        ((6, 4), matrix_norm),
        ((3, 2, 3, 3), lambda weight: conv_norm(weight, (5, 4), 1, 1)),
        ((3, 2, 5, 5), lambda weight: conv_norm(weight, (5, 4), 2, 2)),
        ((9, 1, 3, 3), lambda weight: conv_norm(weight, (7, 7), 2, 1)),
    ],
)
def test_gradients_are_those_of_finite_differences(shape, norm):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, weight)


def test_zero_weights_have_norm_zero_and_finite_gradients():
    for shape, norm in [((3, 4), matrix_norm), ((3, 2, 3, 3), lambda weight: conv_norm(weight, (4, 4), 2, 1))]:
        weight = torch.zeros(shape, requires_grad=True)
        value = norm(weight)
        value.backward()
        assert value == 0
        assert (weight.grad == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_never_have_a_finite_norm(bad):
    for shape, norm in [((3, 4), matrix_norm), ((3, 2, 3, 3), lambda weight: conv_norm(weight, (4, 4), 1, 1))]:
        weight = torch.ones(shape)
        weight.view(-1)[1] = bad
        weight.requires_grad_()
        value = norm(weight)
        value.backward()  # a training step looks at its numbers after the backward pass
        assert not value.isfinite()


def test_gradients_reach_the_parameters_behind_a_normalised_weight():
    torch.manual_seed(0)
    module = weight_norm(nn.Conv2d(2, 3, 3, padding=1))
    module_norm(module, (4, 4)).backward()
    parameters = dict(module.named_parameters())
    assert all(parameters[f"parametrizations.weight.original{i}"].grad.any() for i in (0, 1))


def test_almost_orthogonal_weights_have_norm_one():
    for module in (nn.Linear(3, 4), nn.Conv2d(2, 3, 3, 2, padding=1), nn.ConvTranspose2d(2, 3, 3, 2, padding=1)):
        assert module_norm(contraction(module), (6, 6)) == 1


def test_a_parametrization_for_another_stride_promises_nothing():
    module = nn.Conv2d(2, 3, 3, 1, padding=1)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", AlmostOrthogonal(2))
    assert module_norm(module, (6, 6)) != 1


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, stride=(1, 2)),
        nn.Conv2d(2, 2, 7),
    ],
)
def test_what_is_not_covered_is_refused(module):
    with pytest.raises(ValueError, match=r"need one group|no output"):
        module_norm(module, (6, 6))


def test_other_modules_and_missing_sizes_are_refused():
    with pytest.raises(TypeError, match="ELU"):
        module_norm(nn.ELU(), None)
    with pytest.raises(ValueError, match="size"):
        module_norm(nn.Conv2d(2, 2, 3), None)
