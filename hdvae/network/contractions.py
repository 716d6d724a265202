"""Layers that are 1-Lipschitz by construction, in the Euclidean norm of a whole tensor of features.

`contraction` turns a linear map or a (transposed) convolution into a 1-Lipschitz one; `ContractiveResidual` is a block
with an activation. Both use one fact: for a symmetric matrix G and every q > 0, G ≤ T with the diagonal matrix
T_i = Σ_j |G_ij| q_j / q_i, since T − G, scaled by q on both sides, is diagonally dominant. Here G is the Gram matrix of
the map.

Convolutions are bounded on an infinite grid, where the rows of the Gram matrix are the autocorrelations of the kernel.
The map on an image is the map on the grid between an embedding by zeros and a restriction to the existing outputs.
Both have norm 1, so the zero padding can only decrease the norm. A strided convolution is a convolution of stride 1 on
the image cut into stride × stride blocks, where each block is a pixel with that many more channels (`polyphase`). A
transposed convolution is the adjoint of the convolution with the same weight, and has the same norm.

Shape letters: O and I output and input channels of the underlying convolution (inputs and outputs of a transposed
one), k side of the kernel, S = stride², q = ⌈k / stride⌉, B batch, w width, H and W height and width of features.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, elu, pad
from torch.nn.utils import parametrize

from hdvae.network.dropout import Dropout

Map = TypeVar("Map", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

SHARP = 10.0
"""Initial scale of B in `ContractiveResidual`. T compensates for it, so the bound holds for every scale.

With a large scale the ELU is almost a ReLU, and the block almost preserves norms. At scale 1 many slopes 1 − 2 elu′
are close to 0, and a few blocks damp the signal.
"""
ROUNDING = 4e-6
"""Relative margin. Rounding weights to float32 adds at most 6e-8 k √rows to a norm of 1: less if k √rows ≤ 60."""


def check_plain(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Check that the bounds cover a convolution.

    Raises:
        ValueError: it has groups, dilation, different strides or paddings along the axes, or another kind of padding.
    """
    plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    square = not isinstance(module.padding, str) and len({*module.stride}) == 1 and len({*module.padding}) == 1
    if not (plain and square):
        raise ValueError(f"need one group, no dilation, zero padding, and equal settings along both axes: {module}")


def polyphase(weight_OIkk: Tensor, stride: int) -> Tensor:
    """The kernel (O, I·S, q, q) of stride 1 on the image cut into blocks, for a kernel with the given stride.

    The padding only shifts the image. This permutes the pixels and does not change the norm.
    """
    outputs, inputs, kh, kw = weight_OIkk.shape
    high, wide = math.ceil(kh / stride), math.ceil(kw / stride)
    padded = pad(weight_OIkk, (0, wide * stride - kw, 0, high * stride - kh))
    blocks = padded.reshape(outputs, inputs, high, stride, wide, stride)
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _absolute_gram(weight: Tensor) -> Tensor:
    """Σ over shifts of |Σ_i,t w_oit w_o'i(t+shift)|, (O, O) in float64, of a matrix (O, I) or a kernel of stride 1."""
    weight = weight.double()  # correlations cancel, and the bound depends on their accuracy
    if weight.dim() == 2:
        return (weight @ weight.T).abs()
    kh, kw = weight.shape[2:]
    return conv2d(weight, weight, padding=(kh - 1, kw - 1)).abs().sum((2, 3))


def _margin(weight: Tensor) -> float:
    """A relative bound of what rounding a weight of norm 1 to float32 can add to its norm."""
    taps = weight.shape[2:].numel()
    return max(ROUNDING, 6e-8 * taps * math.sqrt(max(weight.shape[:2])))


def _inverse(sums: Tensor, weight: Tensor) -> Tensor:
    """1 / sums with the margin; 1 for a row of zeros, which stays 0 at any scale."""
    return 1 / (torch.where(sums > 0, sums, 1) * (1 + _margin(weight)) ** 2)


class AlmostOrthogonal(nn.Module):
    """Parametrisation of a weight (O, I) or (O, I, k, k) whose map has a norm of at most 1.

    Source: almost-orthogonal Lipschitz layers (Prach and Lampert 2022). With G = W Wᵀ and D = diag(Σ_j |G_ij|)^(−1/2),
    D G D ≤ I, so ‖D W‖ ≤ 1. The side of W with fewer rows is scaled, since its rows can be orthogonal: then G is
    diagonal, and only the lengths of the rows are lost.

    Args:
        stride: the stride of the convolution.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, weight: Tensor) -> Tensor:
        """The weight of a contraction from the raw weight, with the same shape and type."""
        rows = weight if weight.dim() == 2 else polyphase(weight, self.stride)
        if rows.shape[0] <= rows.shape[1]:
            scale = _inverse(_absolute_gram(rows).sum(1), weight).sqrt().to(weight.dtype)
            return weight * scale.view(-1, *[1] * (weight.dim() - 1))
        scale = _inverse(_absolute_gram(rows.transpose(0, 1)).sum(1), weight).sqrt().to(weight.dtype)
        return weight * (scale if weight.dim() == 2 else self._at_taps(scale, weight))

    def _at_taps(self, scale: Tensor, weight: Tensor) -> Tensor:
        """Scales of the taps (I, k, k) from those of the `polyphase` channels (I·S,): tap t has phase t mod stride."""
        phases = scale.view(-1, self.stride, self.stride)
        rows, columns = (torch.arange(side, device=scale.device) % self.stride for side in weight.shape[2:])
        return phases[:, rows][:, :, columns]


@torch.no_grad()
def _orthogonal(weight: Tensor, stride: int = 1) -> None:
    """Initialise a weight in place: a (semi-)orthogonal matrix, or a kernel made of one.

    A kernel has Q / n at the n × n taps in its middle and zeros elsewhere, where n is the stride and Q orthogonal. With
    stride 1 this maps each pixel by itself; otherwise it averages a block, or, for the adjoint, copies a pixel to a
    block (nearest neighbours), at the scale that preserves the norm, and no phase of the grid is empty. If O > I, each
    of these taps has its own matrix, and all of them together are orthogonal.
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
    """Make a map 1-Lipschitz: give it a new orthogonal weight, parametrised by `AlmostOrthogonal`.

    The map stays 1-Lipschitz for every raw weight that training finds, at every resolution, and for every `output_size`
    of a transposed convolution (see the docstring of this module). The bias is unchanged.

    Returns:
        The same module.

    Raises:
        ValueError: a convolution has groups, dilation, or padding other than zeros.
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

    Source: SDP-based Lipschitz layers (Araujo et al. 2023, theorem 3). The Jacobian is I − 2 Bᵀ M B with
    M = T⁻¹ diag(slopes), where the slopes of the ELU are in [0, 1]. The eigenvalues of Bᵀ M B are those of
    M^½ B Bᵀ M^½ ≤ M^½ T M^½ = diag(slopes), hence in [0, 1], and those of the symmetric Jacobian are in [−1, 1]. On an
    image, B = R B' E, where B' is the map on the infinite grid, E an embedding and R a restriction. Since
    R B' E Eᵀ B'ᵀ Rᵀ ≤ R B' B'ᵀ Rᵀ ≤ R T Rᵀ, the same T can be used.

    In training, dropout scales the activation by 1 / (1 − dropout), so its slopes may exceed 1. The block is a
    contraction in evaluation mode, where dropout is the identity.
    """

    def __init__(self, inner: nn.Linear | nn.Conv2d, dropout: float) -> None:
        """Initialise B orthogonally.

        Args:
            inner: the map with weight B and bias b; its outputs have the shape of its inputs (stride 1).
            dropout: the dropout probability.

        Raises:
            ValueError: a convolution has another stride, groups, dilation, or padding other than zeros.
        """
        super().__init__()
        if isinstance(inner, nn.Conv2d):
            check_plain(inner)
            if inner.stride[0] != 1:
                raise ValueError(f"need stride 1: {inner}")
        _orthogonal(inner.weight)
        with torch.no_grad():
            inner.weight.mul_(SHARP)
        self.inner, self.dropout = inner, Dropout(dropout)
        self.log_q = nn.Parameter(torch.zeros(len(inner.weight)))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, w) or (B, w, H, W) to features of the same shape."""
        hidden = self.dropout(elu(self.inner(x)))
        weight, q = self.inner.weight, self.log_q.double().exp()
        inverse = _inverse((_absolute_gram(weight) @ q) / q, weight).to(weight.dtype)
        back = weight * inverse.view(-1, *[1] * (weight.dim() - 1))
        if isinstance(self.inner, nn.Linear):
            out: Tensor = x - 2 * (hidden @ back)
            return out
        assert not isinstance(self.inner.padding, str)
        return x - 2 * conv_transpose2d(hidden, back, padding=self.inner.padding)
