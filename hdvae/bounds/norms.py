"""Proven, differentiable upper bounds of the spectral norms of linear maps and convolutions.

They are computed in float64 from eigenvalues; power iteration would approach the norm from below. A relative margin
covers rounding.

Shape letters: O and I outputs and inputs, k side of a kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hdvae.network.contractions import AlmostOrthogonal, check_plain, polyphase

ROUNDING = 1e-9
"""Relative margin. The error of an n × n eigenvalue, or of a sum of n terms, is below n · 1e-15."""


def _largest_singular_value(matrices: Tensor) -> Tensor:
    """The largest singular value of all matrices (…, O, I), real or complex, with the margin; 0-dim.

    It is computed from the smaller Gram matrix. The gradient at zero, where the norm is not differentiable, is zero. If
    an entry of the Gram matrix is not finite, the result is infinite or NaN.
    """
    adjoint = matrices.mH
    small = matrices @ adjoint if matrices.shape[-2] <= matrices.shape[-1] else adjoint @ matrices
    # Eigenvalues of what is not finite cannot be computed; the sum is not finite either.
    square = torch.linalg.eigvalsh(small).amax() if torch.isfinite(small).all() else small.abs().sum()
    zero = square <= 0  # false for NaN, which is propagated
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt()) * (1 + ROUNDING)


def matrix_norm(weight: Tensor) -> Tensor:
    """The spectral norm of a matrix (O, I), rounded up by at most 1e-9 of its value; 0-dim, float64.

    The entries are squared, so they must be within the range of float32. If an entry is not finite, the result is
    infinite or NaN.
    """
    return _largest_singular_value(weight.double())


def _axis(size: int, kernel: int, stride: int, padding: int) -> tuple[slice, int]:
    """The taps that read the image along one axis, and the size of a torus for the convolution, in strides.

    Output y reads the position y · stride − padding + tap. The torus is so large that no position outside the image
    coincides with a pixel of it, and that no two outputs coincide.

    Raises:
        ValueError: the convolution has no output.
    """
    outputs = (size + 2 * padding - kernel) // stride + 1
    if min(size, outputs) < 1:
        raise ValueError(f"a kernel of {kernel} with padding {padding} has no output on {size} pixels")
    reach = (outputs - 1) * stride
    first, end = max(0, padding - reach), min(kernel, size + padding)
    before, after = padding - first, reach - padding + end  # the positions that are read: −before … after − 1
    return slice(first, end), math.ceil(max(size + before, after, reach + 1) / stride)


def _waves(positions: int, taps: int, frequencies: int, like: Tensor) -> Tensor:
    """e^(−2πi f t / positions) for f < frequencies, t < taps, complex128."""
    f, t = (torch.arange(n, dtype=torch.float64, device=like.device) for n in (frequencies, taps))
    angle = -2 * torch.pi / positions * torch.outer(f, t)
    return torch.polar(torch.ones_like(angle), angle)


def conv_norm(weight_OIkk: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """An upper bound of the norm of a zero-padded convolution of images (I, *size); 0-dim, float64.

    The map is a circular convolution on a larger torus between an embedding and a restriction, both of norm 1. The
    circular convolution (of stride 1, by `polyphase`) is block-diagonal in the Fourier basis, so its norm is the
    largest norm of a block (Sedghi, Gupta and Long 2019). Since the kernel is real, half of the frequencies suffice.
    The bound is exact for 1 × 1 kernels and for images of one pixel. If a weight is not
    finite, it is infinite or NaN.

    Raises:
        ValueError: the convolution has no output.
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
    """An upper bound of the norm of a linear map or a (transposed) convolution, without its bias; 0-dim, float64.

    Args:
        module: the map; its weight may be parametrised.
        size: the larger grid of a convolution: that of the inputs of `nn.Conv2d`, or of the outputs of
            `nn.ConvTranspose2d`, the adjoint of the convolution with the same weight from that grid.
        tight: whether to compute the norm of an almost orthogonal map (`hdvae.network.contractions`), instead of
            returning 1, which bounds it by construction.

    Raises:
        TypeError: the module is of another type.
        ValueError: a convolution without a size, or with groups, dilation, or padding other than zeros.
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
    """Whether the last parametrisation of the weight is `AlmostOrthogonal` for this stride."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    steps = getattr(module, "parametrizations")["weight"]  # noqa: B009  (nn.Module types it as a tensor)
    return isinstance(steps[-1], AlmostOrthogonal) and steps[-1].stride == stride
