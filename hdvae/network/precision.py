"""The precision of matrix products and convolutions (`training.precision`).

Everything else keeps the precision of the parameters: these themselves, the sums of residual connections, samples,
KL terms, log-likelihoods, certificates, and every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hdvae.experiment.experiment import Precision

AMPERE = 8
"""The first major compute capability of GPUs with TF32."""


class Part(nn.Sequential):
    """A deterministic part of the network, from features to features, whose products may be in reduced precision.

    Attributes:
        products: the type in which products are computed, inside `products_in`; None for that of the parameters.
    """

    products: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Features to features."""
        for module in self:
            x = module(x) if self.products is None else _in(self.products, module, x)
        return x


def _in(products: torch.dtype, module: nn.Module, x: Tensor) -> Tensor:
    """The result of a module whose products are of another type, in the type of its argument."""
    with torch.autocast(x.device.type, products):
        out: Tensor = module(x)
    return out.to(x.dtype)


def for_products(x: Tensor) -> Tensor:
    """Features in the type of the products here, in which all that is done before a product takes half the time."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@contextmanager
def products_in(precision: Precision, parts: Sequence[Part] = ()) -> Iterator[None]:
    """Compute products in this precision inside the context: `bfloat16` in the given parts only.

    `float32` is what it says on a GPU too, where PyTorch's default for convolutions is TF32. `tf32` is for GPUs only.
    """
    cudnn, cublas = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = cudnn.fp32_precision, cublas.fp32_precision, [part.products for part in parts]
    cudnn.fp32_precision = cublas.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    for part in parts:
        part.products = torch.bfloat16 if precision == "bfloat16" else None
    try:
        yield
    finally:
        cudnn.fp32_precision, cublas.fp32_precision, products = before
        for part, own in zip(parts, products, strict=True):
            part.products = own


def precision_caveat(precision: Precision, device: torch.device) -> str | None:
    """Why a precision makes no step faster on this device, where it does not."""
    if precision == "float32":
        return None
    if device.type == "cpu":
        if precision == "tf32":
            return "training.precision: tf32 is for GPUs; on a processor products are in float32"
        if any(name.endswith("bf16") and has for name, has in torch.cpu.get_capabilities().items()):
            return None
        return "training.precision: bfloat16 makes steps slower on this processor, which cannot multiply bfloat16"
    if torch.cuda.get_device_capability(device)[0] >= AMPERE:
        return None
    return f"training.precision: {precision} makes no step faster on {torch.cuda.get_device_name(device)}"
