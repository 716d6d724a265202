"""Layers that are 1-Lipschitz by construction, in the Euclidean norm of a whole tensor of features.

`contraction` makes one of a linear map or a (transposed) convolution, `ContractiveResidual` is a block with an
activation. Both rest on one fact: a symmetric G is at most the diagonal matrix T with T_i = Σ_j |G_ij| q_j / q_i, for
every q > 0, because T − G, scaled by q on both sides, is diagonally dominant. G is the Gram matrix of the map.

Convolutions are bounded on an infinite grid, where the rows of their Gram matrix are the kernel's correlations with
itself. The map on an image is that one between an embedding by zeros and a restriction to the outputs that exist;
both have norm 1, so the zero-padded border only takes away. A strided convolution is a convolution of stride 1 on the
image taken apart into stride × stride blocks, of which each is a pixel with that many more channels: `polyphase`. A
transposed convolution is the adjoint of the convolution with the same weight, and has its norm.

Shape letters: O and I channels out of and into the underlying convolution (for a transposed one: its inputs, its
outputs), k side of the kernel, S = stride², q = ⌈k / stride⌉.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, elu, pad
from torch.nn.utils import parametrize

Map = TypeVar("Map", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

SHARP = 10.0
"""Initial scale of B in `ContractiveResidual`; T takes it out again, so the theorem does not mind.

It makes the ELU nearly a ReLU, and the block nearly keep norms: at scale 1 many slopes 1 − 2 elu′ are near 0, and a few
blocks damp the signal.
"""
ROUNDING = 4e-6
"""Relative margin. Rounding weights to float32 adds at most 6e-8 k √rows to a norm of 1: less for k √rows up to 60."""


def check_plain(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Errors: ValueError for what the bounds do not cover (groups, dilation, oblong strides, other paddings)."""
    plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    square = not isinstance(module.padding, str) and len({*module.stride}) == 1 and len({*module.padding}) == 1
    if not (plain and square):
        raise ValueError(f"need one group, no dilation, zeros as padding, and the same along both axes: {module}")


def polyphase(weight_OIkk: Tensor, stride: int) -> Tensor:
    """The kernel (O, I·S, q, q) of stride 1 on the image taken apart, of a kernel with this stride.

    A shift of the image, which is all that the padding is, permutes its pixels; the norm does not see it.
    """
    outputs, inputs, kh, kw = weight_OIkk.shape
    high, wide = math.ceil(kh / stride), math.ceil(kw / stride)
    padded = pad(weight_OIkk, (0, wide * stride - kw, 0, high * stride - kh))
    blocks = padded.reshape(outputs, inputs, high, stride, wide, stride)
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _absolute_gram(weight: Tensor) -> Tensor:
    """Σ over shifts of |Σ_i,t w_oit w_o'i(t+shift)|, (O, O) in float64, of a matrix (O, I) or a kernel of stride 1."""
    weight = weight.double()  # correlations cancel, and all that is promised rests on them
    if weight.dim() == 2:
        return (weight @ weight.T).abs()
    kh, kw = weight.shape[2:]
    return conv2d(weight, weight, padding=(kh - 1, kw - 1)).abs().sum((2, 3))


def _margin(weight: Tensor) -> float:
    """What rounding a weight of norm 1 to float32 can add to its norm, relatively, and something more."""
    taps = weight.shape[2:].numel()
    return max(ROUNDING, 6e-8 * taps * math.sqrt(max(weight.shape[:2])))


def _inverse(sums: Tensor, weight: Tensor) -> Tensor:
    """1 / sums with the margin; 1 for a row of zeros, which is 0 whatever its scale."""
    return 1 / (torch.where(sums > 0, sums, 1) * (1 + _margin(weight)) ** 2)


class AlmostOrthogonal(nn.Module):
    """Parametrization of a weight, (O, I) or (O, I, k, k), that gives its map a norm of at most 1.

    Almost-orthogonal Lipschitz layers (Prach and Lampert 2022): with G = W Wᵀ and D = diag(Σ_j |G_ij|)^(−1/2),
    D G D ≤ I, so ‖D W‖ ≤ 1. The side of W with fewer rows is the one that is scaled, since it can be orthogonal;
    then G is diagonal and nothing but the lengths of the rows is lost. `stride` is that of the convolution.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, weight: Tensor) -> Tensor:
        """The raw weight → the weight of a contraction, same shape and type."""
        rows = weight if weight.dim() == 2 else polyphase(weight, self.stride)
        if rows.shape[0] <= rows.shape[1]:
            scale = _inverse(_absolute_gram(rows).sum(1), weight).sqrt().to(weight.dtype)
            return weight * scale.view(-1, *[1] * (weight.dim() - 1))
        scale = _inverse(_absolute_gram(rows.transpose(0, 1)).sum(1), weight).sqrt().to(weight.dtype)
        return weight * (scale if weight.dim() == 2 else self._at_taps(scale, weight))

    def _at_taps(self, scale: Tensor, weight: Tensor) -> Tensor:
        """Scales of the channels of `polyphase`, (I·S,) → (I, k, k): tap t belongs to the phase t mod stride."""
        phases = scale.view(-1, self.stride, self.stride)
        rows, columns = (torch.arange(side, device=scale.device) % self.stride for side in weight.shape[2:])
        return phases[:, rows][:, :, columns]


@torch.no_grad()
def _orthogonal(weight: Tensor, stride: int = 1) -> None:
    """A (semi-)orthogonal matrix; for a kernel, Q / n at n × n taps in the middle and zeros elsewhere, n = stride.

    n is 1 with stride 1: a map of each pixel. Else it is the mean of a block, or for the adjoint its copy to all of a
    block (nearest neighbours), at the scale that keeps the norm; no phase of the grid stays empty. Where O > I that
    would not do, and every tap has a matrix of its own, orthogonal together.
    """
    if weight.dim() == 2:
        nn.init.orthogonal_(weight)
        return
    outputs, inputs, kh, kw = weight.shape
    high, wide = min(stride, kh), min(stride, kw)
    if outputs <= inputs:
        same = nn.init.orthogonal_(weight.new_empty(outputs, inputs)) / math.sqrt(high * wide)
        taps = same[:, :, None, None]
    else:
        taps = nn.init.orthogonal_(weight.new_empty(outputs, inputs * high * wide)).view(outputs, inputs, high, wide)
    top, left = min(kh // 2, kh - high), min(kw // 2, kw - wide)
    weight.zero_()
    weight[:, :, top : top + high, left : left + wide] = taps


def contraction(module: Map) -> Map:
    """The module, with a new orthogonal weight under `AlmostOrthogonal`, which hardly changes it at the start.

    The affine map is 1-Lipschitz from then on, whatever the raw weight is trained to: at every resolution, and for
    every `output_size` of a transposed convolution (see the module's docstring). The bias stays as it is.

    Errors: ValueError for convolutions with groups, dilation, or padding other than zeros.
    """
    stride = 1
    if not isinstance(module, nn.Linear):
        check_plain(module)
        stride = module.stride[0]
    _orthogonal(module.weight, stride)
    parametrize.register_parametrization(module, "weight", AlmostOrthogonal(stride))
    return module


class ContractiveResidual(nn.Module):
    """x − 2 Bᵀ T⁻¹ elu(B x + b), T_i = Σ_j |B Bᵀ|_ij q_j / q_i with learned q > 0; channels are dimension 1.

    SDP-based Lipschitz layers (Araujo et al. 2023, theorem 3). The Jacobian is I − 2 Bᵀ M B with M = T⁻¹ diag(slopes)
    and slopes of the ELU in [0, 1]. The eigenvalues of Bᵀ M B are those of M^½ B Bᵀ M^½ ≤ M^½ T M^½ = diag(slopes),
    hence in [0, 1], and those of the symmetric Jacobian in [−1, 1]. On an image B is R B' E, of the infinite grid's B'
    between an embedding and a restriction; R B' E Eᵀ B'ᵀ Rᵀ ≤ R B' B'ᵀ Rᵀ ≤ R T Rᵀ, so T holds there too.

    In training, dropout acts on the activation, and its 1 / (1 − dropout) takes the slopes above 1: the block is a
    contraction in evaluation, where dropout is the identity.
    """

    def __init__(self, inner: nn.Linear | nn.Conv2d, dropout: float) -> None:
        """`inner` holds B, which is made orthogonal, and b; it keeps the shape of its input (stride 1).

        Errors: ValueError for a convolution with a stride, groups, dilation, or padding other than zeros.
        """
        super().__init__()
        if isinstance(inner, nn.Conv2d):
            check_plain(inner)
            if inner.stride[0] != 1:
                raise ValueError(f"need stride 1: {inner}")
        _orthogonal(inner.weight)
        with torch.no_grad():
            inner.weight.mul_(SHARP)
        self.inner, self.dropout = inner, nn.Dropout(dropout)
        self.log_q = nn.Parameter(torch.zeros(len(inner.weight)))

    def forward(self, x: Tensor) -> Tensor:
        """Features, (B, w) or (B, w, H, W), to features of the same shape."""
        hidden = self.dropout(elu(self.inner(x)))
        weight, q = self.inner.weight, self.log_q.double().exp()
        inverse = _inverse((_absolute_gram(weight) @ q) / q, weight).to(weight.dtype)
        back = weight * inverse.view(-1, *[1] * (weight.dim() - 1))
        if isinstance(self.inner, nn.Linear):
            out: Tensor = x - 2 * (hidden @ back)
            return out
        assert not isinstance(self.inner.padding, str)
        return x - 2 * conv_transpose2d(hidden, back, padding=self.inner.padding)
