"""The deterministic parts of the network (paper, appendix A), convolutional or fully connected.

Every connection is a resampling map followed by gated residual blocks; their maps have weight normalisation
(Salimans and Kingma 2016), and every block has dropout. What leads to and from the latent variables, and to the
pixels, is linear. A `Trunk` builds the parts that `hdvae.model` puts together, so that the model does not know which
kind it is made of. Level 0 has the resolution of the image.
"""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import elu
from torch.nn.utils.parametrizations import weight_norm

from hdvae.experiment import ModelConfig


class GatedResidual(nn.Module):
    """x + a·σ(b) with (a, b) = outer(dropout(elu(inner(elu(x))))); channels are dimension 1."""

    def __init__(self, inner: nn.Module, outer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer, self.dropout = inner, outer, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features to features of the same shape."""
        a, b = self.outer(self.dropout(elu(self.inner(elu(x))))).chunk(2, 1)
        out: Tensor = x + a * b.sigmoid()
        return out


class Trunk(Protocol):
    """Builds the deterministic parts for levels 1 … L; both implementations pass the same tests."""

    def feature_shape(self, level: int) -> tuple[int, ...]:
        """Shape of the features of a level, without the batch."""
        ...

    def up(self, level: int) -> nn.Module:
        """Features of level − 1 (the image for level 1) → features of `level`."""
        ...

    def down(self, level: int) -> nn.Module:
        """Features of level + 1 → features of `level`; level 0 is the body of the decoder."""
        ...

    def merge(self, level: int) -> nn.Module:
        """Two features of `level`, concatenated on the channels → features of `level`."""
        ...

    def head(self, level: int, size: int) -> nn.Module:
        """Features of `level` → a vector (B, size)."""
        ...

    def expand(self, level: int, size: int) -> nn.Module:
        """A vector (B, size) → features of `level`."""
        ...

    def logits(self) -> nn.Module:
        """Features of level 0 → logits of the pixels, (B, H, W)."""
        ...


class DenseTrunk:
    """Fully connected blocks: the same network for machines without an accelerator."""

    def __init__(self, config: ModelConfig, image: tuple[int, int]) -> None:
        self.config, self.image = config, image
        self.pixels = image[0] * image[1]

    def feature_shape(self, level: int) -> tuple[int, ...]:
        """(width,) at every level."""
        return (self.config.width,)

    def _blocks(self) -> list[nn.Module]:
        w = self.config.width
        return [
            GatedResidual(weight_norm(nn.Linear(w, w)), weight_norm(nn.Linear(w, 2 * w)), self.config.dropout)
            for _ in range(self.config.depth)
        ]

    def up(self, level: int) -> nn.Module:
        """Linear map, then blocks; the image is flattened first."""
        inputs = self.pixels if level == 1 else self.config.width
        return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(inputs, self.config.width)), *self._blocks())

    def down(self, level: int) -> nn.Module:
        """Linear map, then blocks."""
        return nn.Sequential(weight_norm(nn.Linear(self.config.width, self.config.width)), *self._blocks())

    def merge(self, level: int) -> nn.Module:
        """ELU and a linear map."""
        return nn.Sequential(nn.ELU(), weight_norm(nn.Linear(2 * self.config.width, self.config.width)))

    def head(self, level: int, size: int) -> nn.Module:
        """ELU and a linear map."""
        return nn.Sequential(nn.ELU(), nn.Linear(self.config.width, size))

    def expand(self, level: int, size: int) -> nn.Module:
        """A linear map."""
        return nn.Linear(size, self.config.width)

    def logits(self) -> nn.Module:
        """ELU and a linear map, as an image."""
        return nn.Sequential(nn.ELU(), nn.Linear(self.config.width, self.pixels), nn.Unflatten(1, self.image))


class UpSample(nn.Module):
    """A transposed convolution to a stated resolution."""

    def __init__(self, channels: int, kernel: int, stride: int, size: tuple[int, int]) -> None:
        super().__init__()
        map_ = nn.ConvTranspose2d(channels, channels, kernel, stride, padding=kernel // 2)
        self.map, self.size = weight_norm(map_, dim=1), list(size)

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
        conv: nn.Module = weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))
        return conv

    def _blocks(self, kernel: int) -> list[nn.Module]:
        w = self.config.width
        return [
            GatedResidual(self._conv(w, w, kernel), self._conv(w, 2 * w, kernel), self.config.dropout)
            for _ in range(self.config.depth)
        ]

    def up(self, level: int) -> nn.Module:
        """Strided convolution, then blocks."""
        inputs = 1 if level == 1 else self.config.width
        kernel = self.kernels[level - 1]
        entry = self._conv(inputs, self.config.width, kernel, self.strides[level - 1])
        image = [nn.Unflatten(1, (1, self.sizes[0][0]))] if level == 1 else []
        return nn.Sequential(*image, entry, *self._blocks(kernel))

    def down(self, level: int) -> nn.Module:
        """Transposed convolution, then blocks."""
        kernel = self.kernels[level]
        entry = UpSample(self.config.width, kernel, self.strides[level], self.sizes[level])
        return nn.Sequential(entry, *self._blocks(kernel))

    def merge(self, level: int) -> nn.Module:
        """ELU and a 1 × 1 convolution."""
        return nn.Sequential(nn.ELU(), self._conv(2 * self.config.width, self.config.width, 1))

    def head(self, level: int, size: int) -> nn.Module:
        """ELU, flattened, and a linear map."""
        return nn.Sequential(nn.ELU(), nn.Flatten(), nn.Linear(math.prod(self.feature_shape(level)), size))

    def expand(self, level: int, size: int) -> nn.Module:
        """A linear map to all positions."""
        shape = self.feature_shape(level)
        return nn.Sequential(nn.Linear(size, math.prod(shape)), nn.Unflatten(1, shape))

    def logits(self) -> nn.Module:
        """ELU and a 1 × 1 convolution to one channel, as an image."""
        return nn.Sequential(nn.ELU(), nn.Conv2d(self.config.width, 1, 1), nn.Flatten(1, 2))


def trunk(config: ModelConfig, image: tuple[int, int]) -> Trunk:
    """The trunk of `blocks: conv | dense` for images (H, W)."""
    return ConvTrunk(config, image) if config.blocks == "conv" else DenseTrunk(config, image)
