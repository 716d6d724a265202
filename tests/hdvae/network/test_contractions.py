"""Contractions against the explicit matrices of their maps and Jacobians."""

import math
import random

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from hdvae.network.contractions import ContractiveResidual, contraction
from hdvae.network.dropout import dropping
from tests.hdvae.oracle import source

ONE = 1 + 1e-6

KINDS = {
    "wide": lambda: nn.Linear(12, 7),
    "tall": lambda: nn.Linear(7, 12),
    "conv": lambda: nn.Conv2d(3, 3, 3, padding=1),
    "conv_to_more": lambda: nn.Conv2d(2, 5, 5, padding=2),
    "conv_1": lambda: nn.Conv2d(6, 3, 1),
    "conv_down": lambda: nn.Conv2d(2, 3, 3, 2, padding=1),
    "conv_down_to_many": lambda: nn.Conv2d(1, 7, 5, 2, padding=2),
    "up_1": lambda: nn.ConvTranspose2d(3, 3, 3, 1, padding=1),
    "up": lambda: nn.ConvTranspose2d(3, 3, 3, 2, padding=1),
    "up_5": lambda: nn.ConvTranspose2d(3, 2, 5, 2, padding=2),
    "up_3": lambda: nn.ConvTranspose2d(2, 3, 3, 3, padding=1),
    "up_sparse": lambda: nn.ConvTranspose2d(2, 2, 1, 2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, seed=0):
    torch.manual_seed(seed)
    return contraction(KINDS[kind]())


def singular_values(module, grid=(7, 6)):
    """Of the affine map's matrix, for images of this size on the larger side."""
    if isinstance(module, nn.Linear):
        return torch.linalg.svdvals(module.weight.double())
    up = isinstance(module, nn.ConvTranspose2d)
    size = [math.ceil(side / module.stride[0]) if up else side for side in grid]
    basis = torch.eye(module.in_channels * math.prod(size), dtype=torch.float64)
    basis = basis.view(-1, module.in_channels, *size)
    weight = module.weight.detach().double()  # as it is in single precision; the rest is exact
    if up:
        extra = [side - 1 - (small - 1) * module.stride[0] for side, small in zip(grid, size, strict=True)]
        less = module.kernel_size[0] - 1 - 2 * module.padding[0]
        extra = [side - less for side in extra]
        rows = conv_transpose2d(basis, weight, None, module.stride, module.padding, extra)
        assert rows.shape[2:] == grid
    else:
        rows = conv2d(basis, weight, None, module.stride, module.padding)
    return torch.linalg.svdvals(rows.flatten(1))


def raw(module):
    return module.parametrizations.weight.original


def jacobian_norm(block, x):
    jacobian = torch.autograd.functional.jacobian(block, x[None])
    return torch.linalg.svdvals(jacobian.reshape(x.numel(), x.numel())).max().item()


def residual(convolution, kernel=3, dropout=0.0):
    inner = nn.Conv2d(3, 3, kernel, padding=kernel // 2) if convolution else nn.Linear(9, 9)
    return ContractiveResidual(inner, dropout)


def inputs(convolution):
    return torch.randn(3, 4, 5) if convolution else torch.randn(9)


@every_kind
def test_the_norm_is_at_most_one_wherever_training_takes_the_weights(kind):
    module = make(kind)
    for scale in (0, 1e-6, 0.01, 0.1, 1, 100, 1e6):
        for mean in (0, scale):
            with torch.no_grad():
                raw(module).add_(torch.randn_like(raw(module)) * scale + mean)
            assert singular_values(module).max() <= ONE


@every_kind
def test_the_norm_is_at_most_one_on_every_grid(kind):
    module = make(kind)
    torch.nn.init.normal_(raw(module))
    for grid in [(1, 1), (1, 5), (2, 3), (5, 5), (8, 8)]:
        assert singular_values(module, grid).max() <= ONE


@every_kind
def test_every_singular_value_is_near_one_at_the_start(kind):
    values = singular_values(make(kind), (8, 8) if kind != "up_3" else (6, 6))
    assert 1 - 3e-5 <= values.max() <= ONE
    if kind not in ("conv_down", "up_3", "up_5"):  # at their strides, the border cuts through blocks
        assert values.min() >= 1 - 3e-5


@every_kind
def test_the_raw_weights_have_gradients(kind):
    module = make(kind)
    torch.nn.init.normal_(raw(module))
    module.weight.pow(3).sum().backward()
    assert raw(module).grad.isfinite().all()
    assert (raw(module).grad != 0).any()


@pytest.mark.parametrize("kind", ["wide", "tall", "conv", "conv_to_more", "conv_down_to_many", "up"])
def test_gradients_are_those_of_finite_differences(kind):
    module = make(kind).double()
    torch.nn.init.normal_(raw(module))
    assert torch.autograd.gradcheck(module.parametrizations.weight[0], raw(module))


@every_kind
def test_rows_of_zeros_stay_zero_and_have_finite_gradients(kind):
    module = make(kind)
    for weights in (raw(module)[:1], raw(module)[:, :1], raw(module)):
        torch.nn.init.zeros_(weights)
        module.weight.sum().backward()
        assert module.weight.isfinite().all()
        assert raw(module).grad.isfinite().all()
    assert (module.weight == 0).all()


@every_kind
def test_weights_return_from_a_state_dict_and_from_a_seed(kind):
    module, other = make(kind, seed=0), make(kind, seed=1)
    assert not torch.equal(module.weight, other.weight)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.weight, other.weight)
    assert torch.equal(module.weight, make(kind, seed=0).weight)
    assert module.weight.dtype == torch.float32


def test_up_sampling_starts_as_copies_to_blocks_of_pixels():
    module = make("up")
    torch.nn.init.zeros_(module.bias)
    out = module(torch.randn(1, 3, 4, 4), output_size=[8, 8])
    for row in (0, 1):
        for column in (0, 1):
            torch.testing.assert_close(out[:, :, row::2, column::2], out[:, :, ::2, ::2])


@pytest.mark.parametrize("module", [nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 2, 3, padding_mode="circular")])
def test_what_the_theorems_do_not_cover_is_refused(module):
    with pytest.raises(ValueError, match="need one group"):
        contraction(module)
    with pytest.raises(ValueError, match="need one group"):
        ContractiveResidual(module, 0.0)
    with pytest.raises(ValueError, match="need stride 1"):
        ContractiveResidual(nn.Conv2d(2, 2, 3, 2), 0.0)


@pytest.mark.parametrize("convolution", [False, True])
def test_jacobians_of_residual_blocks_have_a_norm_of_at_most_one(convolution):
    random.seed(0), torch.manual_seed(0)
    for trial in range(40):
        block = residual(convolution, random.choice([1, 3, 5])).double()
        if trial:
            for parameter in (block.inner.weight, block.inner.bias, block.log_q):
                torch.nn.init.normal_(parameter, std=10 ** random.uniform(-2, 1))
        for scale in (0.1, 1, 10):
            assert jacobian_norm(block, scale * inputs(convolution).double()) <= ONE


def test_residual_blocks_reach_the_norm_where_all_slopes_are_one():
    torch.manual_seed(0)
    block = residual(convolution=True).double()
    torch.nn.init.constant_(block.inner.bias, 1e3)  # the Jacobian is I − 2 Bᵀ T⁻¹ B
    assert 1 - 1e-4 <= jacobian_norm(block, inputs(True).double()) <= ONE


@pytest.mark.parametrize("convolution", [False, True])
def test_residual_blocks_use_all_parameters_and_keep_shape_and_type(convolution):
    torch.manual_seed(0)
    block = residual(convolution)
    torch.nn.init.normal_(block.inner.weight)
    x = torch.stack([inputs(convolution), inputs(convolution)])
    out = block(x)
    out.square().sum().backward()
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    for name, parameter in block.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("convolution", [False, True])
def test_residual_blocks_with_zero_weights_are_the_identity(convolution):
    torch.manual_seed(0)
    block = residual(convolution)
    torch.nn.init.zeros_(block.inner.weight)
    x = inputs(convolution)[None]
    out = block(x)
    out.sum().backward()
    assert torch.equal(out, x)
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize("convolution", [False, True])
def test_residual_blocks_return_from_a_state_dict(convolution):
    torch.manual_seed(0)
    block, other, x = residual(convolution), residual(convolution), inputs(convolution)[None]
    assert not torch.equal(block(x), other(x))
    other.load_state_dict(block.state_dict())
    assert torch.equal(block(x), other(x))


def test_dropout_of_residual_blocks_acts_in_training_only():
    torch.manual_seed(0)
    block, x = residual(False, dropout=0.5), inputs(False)[None]
    with dropping([block.dropout], lambda purpose: source(1)):
        assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
