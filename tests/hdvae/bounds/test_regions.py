"""Regions contain what a module makes of them, and its Jacobian stays below the constant."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hdvae.bounds.regions import Region, propagate
from hdvae.network.blocks import GatedResidual, Scale


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_block_contains_and_bounds_what_it_does(kind):
    torch.manual_seed(1)
    width, shape = 4, (4,) if kind == "dense" else (4, 3, 5)
    if kind == "dense":
        inner, outer = weight_norm(nn.Linear(width, width)), weight_norm(nn.Linear(width, 2 * width))
    else:
        inner = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        outer = weight_norm(nn.Conv2d(width, 2 * width, 3, padding=1))
    block = GatedResidual(inner, outer, 0.5).double().eval()
    centre = torch.randn(shape).double()
    for radius in (0.0, 0.1, 3.0):
        ball = Region(centre - radius, centre + radius, centre, torch.tensor(radius).double())
        with torch.no_grad():
            passage = propagate(block, ball, True)
        steps = torch.randn(200, *shape).double()
        lengths = radius * torch.rand(200).double() / steps.flatten(1).norm(dim=1)
        inside = (centre + steps * lengths.view(-1, *[1] * len(shape))).requires_grad_()
        out = block(inside)
        assert (out >= passage.region.low - 1e-12).all()
        assert (out <= passage.region.high + 1e-12).all()
        assert ((out - passage.region.centre).flatten(1).norm(dim=1) <= passage.region.radius + 1e-12).all()
        jacobian = torch.autograd.functional.jacobian(lambda v: block(v.unsqueeze(0))[0], inside[0].detach())
        size = centre.numel()
        assert torch.linalg.matrix_norm(jacobian.reshape(size, size), 2) <= passage.constant


def test_gates_are_bounded_where_features_can_be():
    """The more a region holds, the larger the constant; at a point it is near the Jacobian's norm, not at infinity."""
    torch.manual_seed(0)
    block = GatedResidual(nn.Linear(4, 4), nn.Linear(4, 8), 0.0).double().eval()
    constants = []
    for radius in (0.0, 1.0, 10.0):
        ball = Region(torch.full((4,), -radius), torch.full((4,), radius), torch.zeros(4), torch.tensor(radius))
        ball = Region(*(value.double() for value in (ball.low, ball.high, ball.centre, ball.radius)))
        with torch.no_grad():
            constants.append(propagate(block, ball, True).constant.item())
    assert constants == sorted(constants)
    jacobian = torch.autograd.functional.jacobian(lambda v: block(v.unsqueeze(0))[0], torch.zeros(4).double())
    assert torch.linalg.matrix_norm(jacobian, 2).item() <= constants[0] < constants[2] / 1.5


def test_scale_multiplies():
    for scale in (Scale(2.5), Scale("learned")):
        region = Region.point(torch.ones(3))
        with torch.no_grad():
            passage = propagate(scale, region, True)
        expected = 2.5 if isinstance(scale, Scale) and not list(scale.parameters()) else Scale.START
        assert passage.constant.item() == pytest.approx(expected)
        torch.testing.assert_close(passage.region.high, torch.full((3,), expected).double())


def test_an_unknown_module_has_no_constant():
    with pytest.raises(TypeError, match="no Lipschitz constant is known for Tanh"):
        propagate(nn.Tanh(), Region.point(torch.zeros(3)), True)
