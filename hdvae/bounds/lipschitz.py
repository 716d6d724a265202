"""Certified Lipschitz constants of the generative network: the κ of eqs. 7 to 12, proven, with their parts.

What is followed through the network is a `Region`: a box and a ball, each of which holds every value that features
can take while the latent variables move over the convex hulls of the memories. On it gates are bounded; through it
the Lipschitz constants of the parts multiply (a sequence) and add (a residual connection).

Everything is in float64 and differentiable. Constants are those of the network without dropout. Norms are the
certified ones of `hdvae.bounds.norms`, so every constant is an upper bound; for a network that is free to do what it
likes it is a loose one.

κ is one constant for each layer of latent variables that a function depends on: |f(y) − f(y′)| ≤ Σ_j κ_j ‖y_j − y′_j‖₂.
By Cauchy and Schwarz the sum is never above the same statement with one joint constant √(Σ κ_j²), and for one layer
they are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import conv2d, conv_transpose2d, elu, linear

from hdvae.bounds.norms import conv_norm, matrix_norm, module_norm
from hdvae.latents.layers import MemoryLayer
from hdvae.network.blocks import GatedResidual, Scale, UpSample
from hdvae.network.contractions import ContractiveResidual
from hdvae.network.model import HDVAE
from hdvae.network.wiring import Node

TINY = 1e-30
"""Keeps the slope of a square root finite at 0, and bounds on their side."""


PAIRS = 2048
"""Keys of which all pairs are looked at."""
SLOTS = 4096
"""Slots of a memory that are looked at one by one."""


@dataclass(frozen=True)
class Region:
    """A set of features of one image, float64: it lies in the box and in the ball.

    Attributes:
        low: least value of each feature, in the shape of the features.
        high: greatest value of each feature.
        centre: of the ball; the image of the same point of the latent space in every region.
        radius: of the ball, 0-dim.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    radius: Tensor

    @staticmethod
    def point(value: Tensor) -> Region:
        """The set of one value."""
        value = value.double()
        return Region(value, value, value, value.new_zeros(()))

    def __add__(self, other: Region) -> Region:
        """What sums of a value of each can be."""
        return Region(
            self.low + other.low, self.high + other.high, self.centre + other.centre, self.radius + other.radius
        )

    def within_ball(self) -> Region:
        """The same set, with the box cut to the ball's own."""
        low = torch.maximum(self.low, self.centre - self.radius)
        high = torch.minimum(self.high, self.centre + self.radius)
        return Region(low, high, self.centre, self.radius)


@dataclass(frozen=True)
class Part:
    """One factor of a Lipschitz constant.

    Attributes:
        name: where it is in the network.
        constant: its Lipschitz constant.
    """

    name: str
    constant: float


@dataclass(frozen=True)
class Passage:
    """What a module does to a region.

    Attributes:
        region: where its outputs lie.
        constant: its Lipschitz constant on the region that went in, 0-dim.
        parts: factors of the constant, by place below the module.
    """

    region: Region
    constant: Tensor
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Affine:
    """A linear, convolution or transposed convolution layer, as the operations that bounds need."""

    module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    size: list[int] | None = None
    """Output resolution of a transposed convolution."""

    @property
    def weight(self) -> Tensor:
        """The effective weight, float64."""
        weight: Tensor = self.module.weight
        return weight.double()

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with this weight and bias on features of one image."""
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
        """ℓ₂ norm of each output's weights (at most, at the border), to broadcast over the outputs."""
        outputs = 1 if isinstance(self.module, nn.ConvTranspose2d) else 0
        norms = torch.linalg.vector_norm(self.weight.transpose(0, outputs).flatten(1), dim=1)
        shaped: Tensor = norms if isinstance(self.module, nn.Linear) else norms.view(-1, 1, 1)
        return shaped

    def image(self, region: Region, norm: Tensor) -> Region:
        """Where the outputs lie, given the spectral norm of the layer."""
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
def through(module: nn.Module, region: Region, tight: bool) -> Passage:
    """What a module does to a region of features; `tight` as in `module_norm`.

    Raises:
        TypeError: nothing is known of such a module.
    """
    raise TypeError(f"no Lipschitz constant is known for {type(module).__name__}")


@through.register
def _(module: nn.Linear, region: Region, tight: bool) -> Passage:
    norm = module_norm(module, tight=tight)
    return Passage(Affine(module).image(region, norm), norm, (Part("", norm.item()),))


@through.register
def _(module: nn.Conv2d, region: Region, tight: bool) -> Passage:
    height, width = region.centre.shape[1:]
    norm = module_norm(module, (height, width), tight=tight)
    return Passage(Affine(module).image(region, norm), norm, (Part("", norm.item()),))


@through.register
def _(module: UpSample, region: Region, tight: bool) -> Passage:
    assert isinstance(module.map, nn.ConvTranspose2d)
    height, width = module.size
    norm = module_norm(module.map, (height, width), tight=tight)
    return Passage(Affine(module.map, module.size).image(region, norm), norm, (Part("", norm.item()),))


@through.register
def _(module: nn.ELU, region: Region, tight: bool) -> Passage:
    # Monotone, with slopes in (0, 1]; not strictly 1-Lipschitz for another α.
    assert module.alpha == 1
    return Passage(_elu(region), region.radius.new_ones(()))


def _elu(region: Region) -> Region:
    return Region(elu(region.low), elu(region.high), elu(region.centre), region.radius)


@through.register(nn.Flatten)
@through.register(nn.Unflatten)
def _(module: nn.Module, region: Region, tight: bool) -> Passage:
    low, high, centre = (module(value.unsqueeze(0))[0] for value in (region.low, region.high, region.centre))
    return Passage(Region(low, high, centre, region.radius), region.radius.new_ones(()))


@through.register
def _(module: Scale, region: Region, tight: bool) -> Passage:
    scale = module.scale.double()
    moved = Region(region.low * scale, region.high * scale, region.centre * scale, region.radius * scale)
    return Passage(moved, scale, (Part("", scale.item()),))


@through.register
def _(module: nn.Sequential, region: Region, tight: bool) -> Passage:
    constant, parts = region.radius.new_ones(()), list[Part]()
    for name, child in module.named_children():
        passage = through(child, region, tight)
        region, constant = passage.region, constant * passage.constant
        parts += [_below(name, part) for part in passage.parts]
    return Passage(region, constant, tuple(parts))


def _below(name: str, part: Part) -> Part:
    return Part(f"{name}.{part.name}" if part.name else name, part.constant)


@through.register
def _(module: ContractiveResidual, region: Region, tight: bool) -> Passage:
    centre, one = _value(module, region.centre), region.radius.new_ones(())
    moved = Region(centre - region.radius, centre + region.radius, centre, region.radius)
    return Passage(moved, one, (Part("", 1.0),))


@through.register
def _(module: GatedResidual, region: Region, tight: bool) -> Passage:
    """1 + ‖inner‖ (‖diag(s) W_a‖ + ‖diag(t) W_b‖) for x + a·σ(b), where σ(b) ≤ s and |a| σ′(b) ≤ t on the region."""
    inner = through(module.inner, _elu(region), tight)
    both = through(module.outer, _elu(inner.region), tight).region
    (a_low, b_low), (a_high, b_high) = both.low.chunk(2), both.high.chunk(2)
    s = b_high.sigmoid()
    steepest = torch.zeros_like(b_low).clamp(b_low, b_high)  # σ′ falls on both sides of 0
    t = torch.maximum(a_low.abs(), a_high.abs()) * steepest.sigmoid() * (-steepest).sigmoid()
    gate = _half_norm(module.outer, 0, s) + _half_norm(module.outer, 1, t)
    constant = 1 + inner.constant * gate
    corners = torch.stack([a * b.sigmoid() for a in (a_low, a_high) for b in (b_low, b_high)])
    centre = _value(module, region.centre)
    out = Region(
        region.low + corners.amin(0), region.high + corners.amax(0), centre, constant * region.radius
    ).within_ball()
    return Passage(out, constant, (Part("", constant.item()),))


def _value(module: nn.Module, x: Tensor) -> Tensor:
    """A module in evaluation mode on the features of one image, float64."""
    double = {name: parameter.double() for name, parameter in module.named_parameters()}
    out: Tensor = functional_call(module, double, (x.unsqueeze(0),))[0]
    return out


def _half_norm(outer: nn.Module, half: int, scale: Tensor) -> Tensor:
    """Spectral norm of one half of a block's outer map, its outputs scaled by at most `scale`."""
    assert isinstance(outer, nn.Linear | nn.Conv2d)
    weight = outer.weight.double().chunk(2)[half]
    if isinstance(outer, nn.Linear):
        return matrix_norm(scale[:, None] * weight)
    channel = scale.amax((1, 2))
    height, width = scale.shape[1:]
    return conv_norm(channel[:, None, None, None] * weight, (height, width), 1, _square(outer.padding))


@dataclass(frozen=True)
class Certificate:
    """Constants of the generative network; each dictionary is by layer of latent variables.

    Attributes:
        logits: where the decoder's logits lie.
        decoder: Lipschitz constant of the logits in the reads y_j of layer j.
        priors: for each layer i, that of log p(z_i = any class|·) in the reads y_j of each layer j of its context;
            the top layer has none.
        values: spectral norm of the memory values, which lead from z_j to y_j: the largest over the variables.
        names: of the layers.
        parts: of which the constants are made.
    """

    logits: Region
    decoder: Mapping[Node, Tensor]
    priors: Mapping[Node, Mapping[Node, Tensor]]
    values: Mapping[Node, Tensor]
    names: Mapping[Node, str]
    parts: tuple[Part, ...]

    def slope(self, x: Tensor) -> Tensor:
        """Largest ‖x − σ(logits)‖₂ on the region, the slope of log p(x|·) in the logits: (B, H, W) → (B,), float64."""
        x = x.double()
        white, black = self.logits.high.sigmoid(), (-self.logits.low).sigmoid()
        return (((1 - x) * white.square() + x * black.square()).flatten(1).sum(1) + TINY).sqrt()

    @property
    def steepest(self) -> Tensor:
        """Largest `slope` of any image, 0-dim."""
        return steepest(self.logits)

    def likelihood(self, x: Tensor) -> dict[Node, Tensor]:
        """Of log p(x|·) in the reads of each layer, for each image: (B,)."""
        return {node: self.slope(x) * constant for node, constant in self.decoder.items()}

    def constants(self) -> dict[str, float]:
        """Every κ for any image, by name, in the reads y and in the relaxed samples z̃."""
        functions = {"log p(x|·)": {j: self.steepest * constant for j, constant in self.decoder.items()}}
        functions |= {f"log p({self.names[i]}|·)": dict(context) for i, context in self.priors.items()}
        out = {}
        for function, constants in functions.items():
            for j, constant in constants.items():
                out[f"{function} in the reads of {self.names[j]}"] = constant.item()
                out[f"{function} in z̃ of {self.names[j]}"] = (constant * self.values[j]).item()
        return out


def steepest(logits: Region) -> Tensor:
    """Largest ‖x − σ(logits)‖₂ of any image of 0 and 1 on a region of logits, 0-dim."""
    worst = torch.maximum(logits.high.sigmoid(), (-logits.low).sigmoid())
    return (worst.square().sum() + TINY).sqrt()


def certify(model: HDVAE, *, tight: bool = True) -> Certificate:
    """Follow the latent variables, each over the hull of its memory, through the generative network.

    Args:
        model: with categorical latent variables.
        tight: also compute the norms of maps that are contractions by construction, instead of 1
            (`hdvae.bounds.norms`); without it the certificate of a Lipschitz decoder costs next to nothing.

    Raises:
        TypeError: the latent variables are not categorical: a normal variable has no hull, and no relaxation.
    """
    training = model.training
    model.eval()
    try:
        return _certify(model, tight)
    finally:
        model.train(training)


def _certify(model: HDVAE, tight: bool) -> Certificate:
    d, constants = Region.point(model.top), dict[Node, Tensor]()
    priors, parts = dict[Node, dict[Node, Tensor]](), list[Part]()
    for i in range(len(model.levels), 0, -1):
        level = model.level(i)
        for node in level.nodes if constants else []:
            head = through(level.priors[node.direction], d, tight)
            keys = key_constant(memory(model, node))
            priors[node] = {j: constant * head.constant * keys for j, constant in constants.items()}
            parts += [_below(f"level {i}: prior", part) for part in head.parts]
            parts.append(Part(f"level {i}: keys", keys.item()))
        read = expanded(level.expand_down, [memory(model, node).values for node in level.nodes], tight)
        parts += [_below(f"level {i}: expand", part) for part in read.parts]
        own = dict.fromkeys(level.nodes, read.constant)
        skip = model.wiring.skip_down
        passage = through(level.down, d + read.region if skip else read.region, tight)
        constants = {j: constant * passage.constant for j, constant in ({**constants, **own} if skip else own).items()}
        d = passage.region
        parts += [_below(f"level {i}: down", part) for part in passage.parts]
    last = through(model.logits, d, tight)
    parts += [_below("logits", part) for part in last.parts]
    parts.append(Part("slope of log p(x|·) in the logits", steepest(last.region).item()))
    values = {node: value_norm(memory(model, node)) for node in model.nodes}
    names = {node: model.name(node) for node in model.nodes}
    parts += [Part(f"values of {names[node]}", value.item()) for node, value in values.items()]
    decoder = {j: constant * last.constant for j, constant in constants.items()}
    return Certificate(last.region, decoder, priors, values, names, tuple(parts))


def memory(model: HDVAE, node: Node) -> MemoryLayer:
    """The memory layer of a node.

    Raises:
        TypeError: its variables are not categorical.
    """
    layer = model.layer(node)
    if not isinstance(layer, MemoryLayer):
        raise TypeError("only the hull of a memory is bounded: latent variables must be categorical")
    return layer


def key_constant(layer: MemoryLayer) -> Tensor:
    """Lipschitz constant of log p of any classes of the layer in its queries, 0-dim.

    The gradient of one variable's log-probability in its query is Kᵀ(e_k − π) = Σ_j π_j (k_k − k_j), no longer than
    the largest distance of two keys; over variables and key parts the squares add.
    """
    spread = torch.stack([_diameter(keys) for keys in layer.keys_PNMQ.double().flatten(0, 1)])
    return (spread.square().sum() + TINY).sqrt()


def _diameter(points: Tensor) -> Tensor:
    """The largest distance of two of the points (M, Q), 0-dim; for very many of them at most twice it.

    No two points are further apart than twice the farthest is from their mean.
    """
    if len(points) <= PAIRS:
        return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").amax()
    return 2 * (points - points.mean(0)).square().sum(1).amax().sqrt()


def value_norm(layer: MemoryLayer) -> Tensor:
    """Spectral norm of the map from z̃ to the reads: block diagonal, so the largest over the variables, 0-dim."""
    return torch.stack([matrix_norm(values) for values in layer.values_NKD]).amax()


def expanded(module: nn.Module, values: Sequence[Tensor], tight: bool) -> Passage:
    """What the map from the reads to features does to the convex hulls of the memories; `values` are (N, K, D).

    A linear function takes its extremes over a product of hulls at a slot of each: the box is exact, or for very many
    slots that of the box around them.
    """
    first, *rest = module.children() if isinstance(module, nn.Sequential) else [module]
    assert isinstance(first, nn.Linear)
    weight, bias, norm = first.weight.double(), first.bias.double(), module_norm(first, tight=tight)
    low, high, centre, squared = bias, bias, bias, bias.new_zeros(())
    memories = [slots_KD for layer in values for slots_KD in layer]
    for block, slots in zip(torch.split(weight, [s.shape[1] for s in memories], 1), memories, strict=True):
        slots_KD = slots.double()
        (least, most), middle = _reach(block, slots_KD), slots_KD.mean(0)
        low, high, centre = low + least, high + most, centre + block @ middle
        squared = squared + (slots_KD - middle).square().sum(1).amax()
    region = Region(low, high, centre, norm * squared.sqrt()).within_ball()
    for module_ in rest:
        region = through(module_, region, tight).region
    return Passage(region, norm, (Part("", norm.item()),))


def _reach(block: Tensor, slots_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a linear map (O, D) on the hull of the slots, (O,) each."""
    if len(slots_KD) <= SLOTS:
        reached = block @ slots_KD.T
        return reached.amin(1), reached.amax(1)
    low, high = slots_KD.amin(0), slots_KD.amax(0)
    middle, spread = block @ ((low + high) / 2), block.abs() @ ((high - low) / 2)
    return middle - spread, middle + spread
