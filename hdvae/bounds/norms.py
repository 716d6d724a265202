"""Upper bounds on the spectral norms of linear layers, which hold without exception, and are differentiable.

Everything is computed in float64 by eigenvalues, not by power iteration, which approaches the norm from below. A
relative margin covers what rounding can take away.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hdvae.network.contractions import AlmostOrthogonal, check_plain, polyphase

ROUNDING = 1e-9
"""Relative margin; the error of an n × n eigenvalue or of a sum over n is below n · 1e-15."""


def _largest_singular_value(matrices: Tensor) -> Tensor:
    """Of all matrices (…, O, I), real or complex, by the smaller Gram matrix; 0-dim, with the margin.

    The gradient at zero, where the norm has a kink, is zero.
    """
    adjoint = matrices.mH
    small = matrices @ adjoint if matrices.shape[-2] <= matrices.shape[-1] else adjoint @ matrices
    square = torch.linalg.eigvalsh(small).amax()
    zero = square <= 0  # false for nan, which is passed on
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt()) * (1 + ROUNDING)


def matrix_norm(weight: Tensor) -> Tensor:
    """The spectral norm of a matrix (O, I), not less and at most 1e-9 more of it; 0-dim, float64.

    Its entries are squared: keep them within the range of float32.

    Errors: torch.linalg.LinAlgError, or nan as the norm, when an entry is not finite.
    """
    return _largest_singular_value(weight.double())


def _axis(size: int, kernel: int, stride: int, padding: int) -> tuple[slice, int]:
    """Along one axis: the taps that touch the image at all, and the size of a torus for them, in strides.

    Output y reads y · stride − padding + tap. On the torus, what it reads outside the image must not be a pixel of
    the image, and no two outputs may be one.
    """
    outputs = (size + 2 * padding - kernel) // stride + 1
    if min(size, outputs) < 1:
        raise ValueError(f"a kernel of {kernel} with padding {padding} has no output on {size} pixels")
    reach = (outputs - 1) * stride
    first, end = max(0, padding - reach), min(kernel, size + padding)
    before, after = padding - first, reach - padding + end  # as far as is read: −before … after − 1
    return slice(first, end), math.ceil(max(size + before, after, reach + 1) / stride)


def _waves(positions: int, taps: int, frequencies: int, like: Tensor) -> Tensor:
    """e^(−2πi f t / positions) for f < frequencies, t < taps, complex128."""
    f, t = (torch.arange(n, dtype=torch.float64, device=like.device) for n in (frequencies, taps))
    angle = -2 * torch.pi / positions * torch.outer(f, t)
    return torch.polar(torch.ones_like(angle), angle)


def conv_norm(weight_OIkk: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """A bound on the norm of a zero-padded convolution of images (I, *size); 0-dim, float64.

    The map is a circular convolution on a larger torus between an embedding and a restriction, whose norms are 1. That
    convolution (of stride 1, by `polyphase`) is block-diagonal in the Fourier basis, so its norm is the largest of
    the blocks (Sedghi, Gupta and Long 2019). The kernel is real: half of the frequencies have the norms of all. The
    bound is exact for 1 × 1 kernels and images of one pixel.

    Errors: ValueError when there are no outputs; torch.linalg.LinAlgError, or nan, when a weight is not finite.
    """
    (rows, m), (columns, n) = (
        _axis(pixels, side, stride, padding) for pixels, side in zip(size, weight_OIkk.shape[2:], strict=True)
    )
    kernel = polyphase(weight_OIkk.double()[:, :, rows, columns], stride)
    vertical = _waves(m, kernel.shape[2], m, kernel)
    horizontal = _waves(n, kernel.shape[3], n // 2 + 1, kernel)
    blocks = torch.einsum("oiyx,uy,vx->uvoi", kernel.to(vertical.dtype), vertical, horizontal)
    return _largest_singular_value(blocks)


def module_norm(module: nn.Module, size: tuple[int, int] | None = None, *, tight: bool = False) -> Tensor:
    """A bound on the norm of a linear map or (transposed) convolution, without its bias; 0-dim, float64.

    `size` is the larger grid of a convolution: of the inputs of nn.Conv2d, of the outputs of nn.ConvTranspose2d, which
    is the adjoint of the convolution from there with the same weight. The weight may be parametrized; when it is almost
    orthogonal (`hdvae.network.contractions`), 1 is returned at once, by the theorem there, unless `tight` wants its
    norm.

    Errors: TypeError for another kind of module; ValueError for convolutions without a size, or with groups,
    dilation, or padding other than zeros.
    """
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        raise TypeError(f"no bound is known for {type(module).__name__}")
    stride = 1
    if not isinstance(module, nn.Linear):
        check_plain(module)
        stride = module.stride[0]
    if not tight and _is_almost_orthogonal(module, stride):
        return torch.ones((), dtype=torch.float64, device=module.weight.device)
    if isinstance(module, nn.Linear):
        return matrix_norm(module.weight)
    if size is None:
        raise ValueError("the norm of a convolution depends on the size of its image")
    assert not isinstance(module.padding, str)
    return conv_norm(module.weight, size, stride, module.padding[0])


def _is_almost_orthogonal(module: nn.Module, stride: int) -> bool:
    """Whether the last step to the weight is `AlmostOrthogonal`, for this stride."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    steps = getattr(module, "parametrizations")["weight"]  # noqa: B009  (nn.Module types it as a tensor)
    return isinstance(steps[-1], AlmostOrthogonal) and steps[-1].stride == stride
