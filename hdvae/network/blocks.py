"""The deterministic parts of the network (paper, appendix A), convolutional or fully connected.

Every connection is gated residual blocks, after a resampling map where the shape of the features changes. Where it does
not, there is no map, which would cut the residual stream between the levels. With `weight_norm`, all these maps have
weight normalisation (Salimans and Kingma 2016); every block has dropout. The maps to and from the latent variables, and
to the pixels, are linear. A `Trunk` builds the parts from which `hdvae.network.model` is composed, so that the model is
independent of their kind.
Level 0 has the resolution of the image.

Shape letters: B batch, H and W height and width of the images.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear, unfold
from torch.nn.utils.parametrizations import weight_norm

from hdvae.experiment.experiment import ModelConfig
from hdvae.network.contractions import ContractiveResidual, Map, contraction
from hdvae.network.dropout import Dropout
from hdvae.network.precision import Part, for_products


class _Gated(torch.autograd.Function):
    """X + a·σ(b) for (a, b) in the halves of the channels; the gradient is laid out in memory as the halves are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, halves: Tensor) -> Tensor:
        a, b = halves.chunk(2, 1)
        gate = b.sigmoid()
        ctx.save_for_backward(halves, gate)
        return torch.addcmul(x, a, gate) if x.dtype == a.dtype else x + a * gate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        halves, gate = ctx.saved_tensors
        (gradient,), (a, b) = gradients, halves.chunk(2, 1)
        if torch.is_grad_enabled():  # the gradient is differentiated, as the local Lipschitz bound asks for
            gate = b.sigmoid()
            return gradient, torch.cat([gradient * gate, gradient * a * gate * (1 - gate)], 1)
        both, through = torch.empty_like(halves), gradient.to(halves.dtype)
        for_a, for_b = both.chunk(2, 1)
        torch.mul(through, gate, out=for_a)
        torch.mul(for_a, a, out=for_b)
        for_b.addcmul_(for_b, gate, value=-1)
        return gradient, both


class GatedResidual(nn.Module):
    """x + a·σ(b) with (a, b) = outer(dropout(elu(inner(elu(x))))); channels are dimension 1."""

    def __init__(self, inner: nn.Module, outer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer, self.dropout = inner, outer, Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features to features of the same shape."""
        inner = elu(self.inner(elu(for_products(x))), inplace=True)  # nothing else needs what the map gave
        out: Tensor = _Gated.apply(x, self.outer(self.dropout(inner)))  # type: ignore[no-untyped-call]
        return out


class Scale(nn.Module):
    """Multiplication by κ > 0, which is fixed, or learned with the initial value `START`."""

    START = 10.0

    def __init__(self, scale: float | Literal["learned"]) -> None:
        super().__init__()
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(math.log(self.START)))
        else:
            self.register_buffer("log_scale", torch.tensor(math.log(scale)), persistent=False)

    @property
    def scale(self) -> Tensor:
        """κ, 0-dim."""
        return self.log_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        """Scale features of any shape."""
        return self.scale * x


class Trunk(Protocol):
    """A builder of the deterministic parts of levels 1 … L. Both implementations pass the same tests.

    The parts of the generative network (`down`, `prior`, `expand_down`, `logits`) are unconstrained, or, with
    `decoder: lipschitz`, made of maps that are 1-Lipschitz by construction, with one scale κ before the pixels.
    """

    def feature_shape(self, level: int) -> tuple[int, ...]:
        """Shape of the features of a level, without the batch."""
        ...

    def up(self, level: int) -> Part:
        """Features of level − 1 (the image for level 1) → features of `level`."""
        ...

    def down(self, level: int) -> Part:
        """Features of level + 1 → features of `level`; level 0 is the body of the decoder."""
        ...

    def merge(self, level: int) -> Part:
        """Two features of `level`, concatenated on the channels → features of `level`."""
        ...

    def posterior(self, level: int, size: int) -> Part:
        """Features of `level` → a vector (B, size)."""
        ...

    def prior(self, level: int, size: int) -> Part:
        """Top-down features of `level` → a vector (B, size)."""
        ...

    def expand_up(self, level: int, size: int) -> Part:
        """A vector (B, size) → features of `level`."""
        ...

    def expand_down(self, level: int, size: int) -> Part:
        """A vector (B, size) → top-down features of `level`."""
        ...

    def logits(self) -> Part:
        """Features of level 0 → logits of the pixels, (B, H, W)."""
        ...


def _generative(config: ModelConfig, map_: Map) -> nn.Module:
    """A map of the generative network: a contraction with `decoder: lipschitz`, else unconstrained."""
    return contraction(map_) if config.decoder == "lipschitz" else map_


def _normalised(config: ModelConfig, map_: nn.Module) -> nn.Module:
    """A map with weight normalisation, if the network has it."""
    if not config.weight_norm:
        return map_
    module: nn.Module = weight_norm(map_, dim=1 if isinstance(map_, nn.ConvTranspose2d) else 0)
    return module


def _scaled(config: ModelConfig) -> list[nn.Module]:
    return [Scale(config.decoder_scale)] if config.decoder == "lipschitz" else []


class DenseTrunk:
    """Fully connected blocks, which are fast on machines without an accelerator."""

    def __init__(self, config: ModelConfig, image: tuple[int, int]) -> None:
        self.config, self.image = config, image
        self.pixels = image[0] * image[1]

    def feature_shape(self, level: int) -> tuple[int, ...]:
        """(width,) at every level."""
        return (self.config.width,)

    def _linear(self, inputs: int, outputs: int) -> nn.Module:
        return _normalised(self.config, nn.Linear(inputs, outputs))

    def _blocks(self) -> list[nn.Module]:
        w = self.config.width
        return [
            GatedResidual(self._linear(w, w), self._linear(w, 2 * w), self.config.dropout)
            for _ in range(self.config.depth)
        ]

    def up(self, level: int) -> Part:
        """Blocks; at level 1 the image is flattened, and a linear map comes first."""
        entry = [nn.Flatten(), self._linear(self.pixels, self.config.width)] if level == 1 else []
        return Part(*entry, *self._blocks())

    def down(self, level: int) -> Part:
        """Blocks."""
        if self.config.decoder == "free":
            return Part(*self._blocks())
        w = self.config.width
        blocks = [ContractiveResidual(nn.Linear(w, w), self.config.dropout) for _ in range(self.config.depth)]
        return Part(*blocks)

    def merge(self, level: int) -> Part:
        """ELU and a linear map."""
        return Part(nn.ELU(), self._linear(2 * self.config.width, self.config.width))

    def posterior(self, level: int, size: int) -> Part:
        """ELU and a linear map."""
        return Part(nn.ELU(), nn.Linear(self.config.width, size))

    def prior(self, level: int, size: int) -> Part:
        """ELU and a linear map."""
        return Part(nn.ELU(), _generative(self.config, nn.Linear(self.config.width, size)))

    def expand_up(self, level: int, size: int) -> Part:
        """A linear map."""
        return Part(nn.Linear(size, self.config.width))

    def expand_down(self, level: int, size: int) -> Part:
        """A linear map."""
        return Part(_generative(self.config, nn.Linear(size, self.config.width)))

    def logits(self) -> Part:
        """ELU and a linear map, as an image."""
        last = _generative(self.config, nn.Linear(self.config.width, self.pixels))
        return Part(nn.ELU(), last, *_scaled(self.config), nn.Unflatten(1, self.image))


class ChannelsLast(nn.Module):
    """Features (B, C, H, W) in the memory layout (B, H, W, C), in which convolutions are faster."""

    def forward(self, x: Tensor) -> Tensor:
        """Features to the same features; no copy where they are laid out like this already."""
        return x.contiguous(memory_format=torch.channels_last)


class _Rows(torch.autograd.Function):
    """Features as rows of numbers, channels first; their gradient is laid out channels last again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].reshape(ctx.shape).contiguous(memory_format=torch.channels_last)


class Rows(nn.Module):
    """Features (B, C, H, W) as rows of numbers (B, C · H · W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Features to rows."""
        rows: Tensor = _Rows.apply(x)  # type: ignore[no-untyped-call]
        return rows


class ImageConvolution(nn.Conv2d):
    """A convolution of one channel as one product of all patches with all filters; it gives features channels last.

    PyTorch's convolutions are slow for images of one channel.
    """

    def __init__(self, filters: int, kernel: int, stride: int) -> None:
        super().__init__(1, filters, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) → (B, filters, h, w)."""
        kernel, padding, stride = self.kernel_size[0], self.kernel_size[0] // 2, self.stride[0]
        patches = unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
        height = (x.shape[2] + 2 * padding - kernel) // stride + 1
        filtered: Tensor = linear(patches.flatten(0, 1), self.weight.flatten(1), self.bias)
        return filtered.view(len(x), height, -1, self.out_channels).permute(0, 3, 1, 2)


class UpSample(nn.Module):
    """A transposed convolution to a stated resolution."""

    def __init__(self, map_: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.map, self.size = map_, list(size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, *size)."""
        out: Tensor = self.map(x, output_size=self.size)
        return out


class ConvTrunk:
    """Convolutions, as in the paper: 64 filters, resolution 28 → 14 → 7 → 7 … by default."""

    def __init__(self, config: ModelConfig, image: tuple[int, int]) -> None:
        self.config = config
        self.strides = [
            layer.stride or (2 if i < 2 else 1)  # by default the first two levels halve the resolution
            for i, layer in enumerate(config.layers)
        ]
        self.kernels = [layer.kernel for layer in config.layers]
        self.sizes = [image]
        for stride in self.strides:
            h, w = self.sizes[-1]
            self.sizes.append((math.ceil(h / stride), math.ceil(w / stride)))

    def feature_shape(self, level: int) -> tuple[int, ...]:
        """(filters, height, width) of the level."""
        return (self.config.width, *self.sizes[level])

    def _conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
        return _normalised(self.config, nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))

    def _blocks(self, kernel: int) -> list[nn.Module]:
        w = self.config.width
        return [
            GatedResidual(self._conv(w, w, kernel), self._conv(w, 2 * w, kernel), self.config.dropout)
            for _ in range(self.config.depth)
        ]

    def up(self, level: int) -> Part:
        """A convolution if the channels or the resolution change, then blocks."""
        w, kernel, stride = self.config.width, self.kernels[level - 1], self.strides[level - 1]
        if level == 1:
            image = nn.Unflatten(1, (1, self.sizes[0][0]))
            first = _normalised(self.config, ImageConvolution(w, kernel, stride))
            return Part(image, first, *self._blocks(kernel))
        entry = [self._conv(w, w, kernel, stride)] if stride > 1 else []
        return Part(*entry, *self._blocks(kernel))

    def down(self, level: int) -> Part:
        """A transposed convolution if the resolution changes, then blocks."""
        w, kernel = self.config.width, self.kernels[level]
        entry = [self._enlarge(level)] if self.strides[level] > 1 else []
        if self.config.decoder == "free":
            return Part(*entry, *self._blocks(kernel))
        inner = [nn.Conv2d(w, w, kernel, padding=kernel // 2) for _ in range(self.config.depth)]
        return Part(*entry, *[ContractiveResidual(map_, self.config.dropout) for map_ in inner])

    def _enlarge(self, level: int) -> nn.Module:
        w, kernel = self.config.width, self.kernels[level]
        map_ = nn.ConvTranspose2d(w, w, kernel, self.strides[level], padding=kernel // 2)
        free = self.config.decoder == "free"
        return UpSample(_normalised(self.config, map_) if free else contraction(map_), self.sizes[level])

    def merge(self, level: int) -> Part:
        """ELU and a 1 × 1 convolution."""
        return Part(nn.ELU(), self._conv(2 * self.config.width, self.config.width, 1))

    def posterior(self, level: int, size: int) -> Part:
        """ELU, flattened, and a linear map."""
        return Part(nn.ELU(), Rows(), nn.Linear(math.prod(self.feature_shape(level)), size))

    def prior(self, level: int, size: int) -> Part:
        """ELU, flattened, and a linear map."""
        map_ = nn.Linear(math.prod(self.feature_shape(level)), size)
        return Part(nn.ELU(), Rows(), _generative(self.config, map_))

    def expand_up(self, level: int, size: int) -> Part:
        """A linear map to all positions."""
        shape = self.feature_shape(level)
        return Part(nn.Linear(size, math.prod(shape)), nn.Unflatten(1, shape), ChannelsLast())

    def expand_down(self, level: int, size: int) -> Part:
        """A linear map to all positions."""
        shape = self.feature_shape(level)
        map_ = _generative(self.config, nn.Linear(size, math.prod(shape)))
        return Part(map_, nn.Unflatten(1, shape), ChannelsLast())

    def logits(self) -> Part:
        """ELU and a 1 × 1 convolution to one channel, as an image."""
        last = _generative(self.config, nn.Conv2d(self.config.width, 1, 1))
        return Part(nn.ELU(), last, *_scaled(self.config), nn.Flatten(1, 2))


def trunk(config: ModelConfig, image: tuple[int, int]) -> Trunk:
    """The trunk of `blocks: conv | dense` for images (H, W)."""
    return ConvTrunk(config, image) if config.blocks == "conv" else DenseTrunk(config, image)
