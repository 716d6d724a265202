"""Regions of features and their propagation through the modules of a network.

A `Region` contains all values that some features can take. `propagate` bounds the outputs of a module on a region, and
gives a Lipschitz constant of the module there. Constants multiply along a sequence, and add over a residual connection.
Everything is in float64, differentiable, and for the network without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import conv2d, conv_transpose2d, elu, linear

from hdvae.bounds.norms import conv_norm, matrix_norm, module_norm
from hdvae.network.blocks import ChannelsLast, GatedResidual, Rows, Scale, UpSample
from hdvae.network.contractions import ContractiveResidual


@dataclass(frozen=True)
class Region:
    """A set of features of one image, given by a box and a ball that both contain it; float64.

    Attributes:
        low: lower limit of each feature, in the shape of the features.
        high: upper limit of each feature.
        centre: centre of the ball: in all regions of a network, the features of one and the same latent point.
        radius: radius of the ball, 0-dim.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    radius: Tensor

    @staticmethod
    def point(value: Tensor) -> Region:
        """The region of a single value."""
        value = value.double()
        return Region(value, value, value, value.new_zeros(()))

    def __add__(self, other: Region) -> Region:
        """The region of all sums of one value of each."""
        return Region(
            self.low + other.low, self.high + other.high, self.centre + other.centre, self.radius + other.radius
        )

    def within_ball(self) -> Region:
        """The same set, with the box intersected with the box around the ball."""
        low = torch.maximum(self.low, self.centre - self.radius)
        high = torch.minimum(self.high, self.centre + self.radius)
        return Region(low, high, self.centre, self.radius)


@dataclass(frozen=True)
class Part:
    """One factor of a Lipschitz constant.

    Attributes:
        name: the place of the module in the network.
        constant: the Lipschitz constant of the module.
    """

    name: str
    constant: float


@dataclass(frozen=True)
class Propagation:
    """The result of propagating a region through a module.

    Attributes:
        region: a region that contains all outputs.
        constant: the Lipschitz constant of the module on the input region, 0-dim.
        parts: the factors of the constant.
    """

    region: Region
    constant: Tensor
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Affine:
    """The operations that bounds need of a linear map, a convolution or a transposed convolution.

    Attributes:
        module: the module.
        size: the output resolution of a transposed convolution.
    """

    module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    size: list[int] | None = None

    @property
    def weight(self) -> Tensor:
        """The weight after its parametrisation, float64."""
        weight: Tensor = self.module.weight
        return weight.double()

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the map with another weight and bias to the features of one image."""
        module, x = self.module, x.unsqueeze(0)
        if isinstance(module, nn.Linear):
            return linear(x, weight, bias).squeeze(0)
        stride, padding = _square(module.stride), _square(module.padding)
        if isinstance(module, nn.Conv2d):
            return conv2d(x, weight, bias, stride, padding).squeeze(0)
        assert self.size is not None
        kernel = weight.shape[-1]
        least = [(side - 1) * stride - 2 * padding + kernel for side in x.shape[2:]]
        rest = [out - side for out, side in zip(self.size, least, strict=True)]
        return conv_transpose2d(x, weight, bias, stride, padding, output_padding=rest).squeeze(0)

    def row_norms(self) -> Tensor:
        """ℓ₂ norm of the weights of each output, which broadcasts over the outputs. An upper bound at the border."""
        outputs = 1 if isinstance(self.module, nn.ConvTranspose2d) else 0
        norms = torch.linalg.vector_norm(self.weight.transpose(0, outputs).flatten(1), dim=1)
        shaped: Tensor = norms if isinstance(self.module, nn.Linear) else norms.view(-1, 1, 1)
        return shaped

    def image(self, region: Region, norm: Tensor) -> Region:
        """A region that contains the outputs, given the spectral norm of the map."""
        weight = self.weight
        bias = None if self.module.bias is None else self.module.bias.double()
        middle = self.apply((region.low + region.high) / 2, weight, bias)
        spread = self.apply((region.high - region.low) / 2, weight.abs(), None)
        centre = self.apply(region.centre, weight, bias)
        reach = self.row_norms() * region.radius
        return Region(
            torch.maximum(middle - spread, centre - reach),
            torch.minimum(middle + spread, centre + reach),
            centre,
            norm * region.radius,
        )


def _square(value: int | str | tuple[int, ...]) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


@singledispatch
def propagate(module: nn.Module, region: Region, tight: bool) -> Propagation:
    """Propagate a region of features through a module.

    Args:
        module: the module.
        region: a region that contains its inputs.
        tight: see `hdvae.bounds.norms.module_norm`.

    Raises:
        TypeError: no Lipschitz constant is known for modules of this type.
    """
    raise TypeError(f"no Lipschitz constant is known for {type(module).__name__}")


@propagate.register
def _(module: nn.Linear, region: Region, tight: bool) -> Propagation:
    norm = module_norm(module, tight=tight)
    return Propagation(Affine(module).image(region, norm), norm, (Part("", norm.item()),))


@propagate.register
def _(module: nn.Conv2d, region: Region, tight: bool) -> Propagation:
    height, width = region.centre.shape[1:]
    norm = module_norm(module, (height, width), tight=tight)
    return Propagation(Affine(module).image(region, norm), norm, (Part("", norm.item()),))


@propagate.register
def _(module: UpSample, region: Region, tight: bool) -> Propagation:
    assert isinstance(module.map, nn.ConvTranspose2d)
    height, width = module.size
    norm = module_norm(module.map, (height, width), tight=tight)
    return Propagation(Affine(module.map, module.size).image(region, norm), norm, (Part("", norm.item()),))


@propagate.register
def _(module: nn.ELU, region: Region, tight: bool) -> Propagation:
    # For α = 1 the ELU is monotone with slopes in (0, 1]; for other α it may not be 1-Lipschitz.
    assert module.alpha == 1
    return Propagation(_elu(region), region.radius.new_ones(()))


def _elu(region: Region) -> Region:
    return Region(elu(region.low), elu(region.high), elu(region.centre), region.radius)


@propagate.register(nn.Flatten)
@propagate.register(nn.Unflatten)
@propagate.register(Rows)
@propagate.register(ChannelsLast)
def _(module: nn.Module, region: Region, tight: bool) -> Propagation:
    low, high, centre = (module(value.unsqueeze(0))[0] for value in (region.low, region.high, region.centre))
    return Propagation(Region(low, high, centre, region.radius), region.radius.new_ones(()))


@propagate.register
def _(module: Scale, region: Region, tight: bool) -> Propagation:
    scale = module.scale.double()
    moved = Region(region.low * scale, region.high * scale, region.centre * scale, region.radius * scale)
    return Propagation(moved, scale, (Part("", scale.item()),))


@propagate.register
def _(module: nn.Sequential, region: Region, tight: bool) -> Propagation:
    constant, parts = region.radius.new_ones(()), list[Part]()
    for name, child in module.named_children():
        propagation = propagate(child, region, tight)
        region, constant = propagation.region, constant * propagation.constant
        parts += [prefixed(name, part) for part in propagation.parts]
    return Propagation(region, constant, tuple(parts))


def prefixed(name: str, part: Part) -> Part:
    """The part with the name of the surrounding module before its own."""
    return Part(f"{name}.{part.name}" if part.name else name, part.constant)


@propagate.register
def _(module: ContractiveResidual, region: Region, tight: bool) -> Propagation:
    centre, one = _value(module, region.centre), region.radius.new_ones(())
    moved = Region(centre - region.radius, centre + region.radius, centre, region.radius)
    return Propagation(moved, one, (Part("", 1.0),))


@propagate.register
def _(module: GatedResidual, region: Region, tight: bool) -> Propagation:
    """1 + ‖inner‖ (‖diag(s) W_a‖ + ‖diag(t) W_b‖) for x + a·σ(b), where σ(b) ≤ s and |a| σ′(b) ≤ t on the region."""
    inner = propagate(module.inner, _elu(region), tight)
    both = propagate(module.outer, _elu(inner.region), tight).region
    (a_low, b_low), (a_high, b_high) = both.low.chunk(2), both.high.chunk(2)
    s = b_high.sigmoid()
    steepest = torch.zeros_like(b_low).clamp(b_low, b_high)  # σ′ decreases on both sides of 0
    t = torch.maximum(a_low.abs(), a_high.abs()) * steepest.sigmoid() * (-steepest).sigmoid()
    gate = _half_norm(module.outer, 0, s) + _half_norm(module.outer, 1, t)
    constant = 1 + inner.constant * gate
    corners = torch.stack([a * b.sigmoid() for a in (a_low, a_high) for b in (b_low, b_high)])
    centre = _value(module, region.centre)
    out = Region(
        region.low + corners.amin(0), region.high + corners.amax(0), centre, constant * region.radius
    ).within_ball()
    return Propagation(out, constant, (Part("", constant.item()),))


def _value(module: nn.Module, x: Tensor) -> Tensor:
    """The output of a module in evaluation mode for the features of one image, in float64."""
    double = {name: parameter.double() for name, parameter in module.named_parameters()}
    out: Tensor = functional_call(module, double, (x.unsqueeze(0),))[0]
    return out


def _half_norm(outer: nn.Module, half: int, scale: Tensor) -> Tensor:
    """Spectral norm of one half of the outer map of a block, with its outputs scaled by at most `scale`."""
    assert isinstance(outer, nn.Linear | nn.Conv2d)
    weight = outer.weight.double().chunk(2)[half]
    if isinstance(outer, nn.Linear):
        return matrix_norm(scale[:, None] * weight)
    channel = scale.amax((1, 2))
    height, width = scale.shape[1:]
    return conv_norm(channel[:, None, None, None] * weight, (height, width), 1, _square(outer.padding))
