"""Bounds of the relaxation bias (eqs. 7 to 12, with appendix E repaired).

The surrogate and the coupled sample share q, so they differ by what p and the decoder make of z̃ instead of H(z̃):

    surrogate − coupled = [log p(x|z̃) − log p(x|H(z̃))] + Σ_{i<L} [log p(z_i|z̃_{>i}) − log p(z_i|H(z̃_{>i}))]

and each bracket is at most a Lipschitz constant times how far z̃ is from H(z̃), for every single sample. κ^q is not
needed. `docs/bias.md` has the argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hdvae.bounds.lipschitz import TINY, Certificate, memory
from hdvae.errors import BoundViolated
from hdvae.latents.distributions import Draw
from hdvae.network.model import HDVAE
from hdvae.network.terms import Terms, bernoulli_log_prob
from hdvae.network.wiring import Node
from hdvae.objectives.objectives import expected_log_weight

SEGMENT = (0.0, 0.5, 1.0)
"""Where on the way from H(z̃) to z̃ the local κ looks at gradients."""
ROUNDING = 1000
"""How many units in the last place of the sums a single draw may be above its certified bound."""


@dataclass(frozen=True)
class Distance:
    """How far a layer's relaxed sample is from its hard one, (B,) each.

    Attributes:
        soft: ‖z̃ − H(z̃)‖₂ over all variables and classes.
        read: ‖y(z̃) − y(H(z̃))‖₂, of what the memory returns.
    """

    soft: Tensor
    read: Tensor


@dataclass(frozen=True)
class Bound:
    """Upper bounds of |surrogate − coupled| of each image's sample, (B,), nats.

    Attributes:
        soft: from the distances of the samples; `lipschitz_bound`.
        read: from the distances of the reads, never above `soft`; `lipschitz_bound_reads`.
    """

    soft: Tensor
    read: Tensor


def hardened(model: HDVAE, terms: Terms) -> dict[Node, Draw]:
    """H(z̃) of every layer, with its read."""
    return {layer.node: model.layer(layer.node).at(layer.draw.hard) for layer in terms.layers}


def distances(terms: Terms, hard: Mapping[Node, Draw]) -> dict[Node, Distance]:
    """How far each layer's relaxed sample is from H of it."""
    return {layer.node: _distance(layer.draw, hard[layer.node]) for layer in terms.layers}


def _distance(draw: Draw, hard: Draw) -> Distance:
    assert draw.soft is not None
    # 1 − z̃_H as the sum of the others: as a difference it would be rounding noise at low temperatures.
    others = draw.soft.scatter(-1, draw.place.unsqueeze(-1), 0.0)
    squared = others.sum(-1).square() + others.square().sum(-1)
    return Distance(_root(squared.sum(-1)), _root((draw.read - hard.read).square().sum(-1)))


def _root(squared: Tensor) -> Tensor:
    return (squared + TINY).sqrt()


def certified_bound(certificate: Certificate, x: Tensor, apart: Mapping[Node, Distance]) -> Bound:
    """The bound that is proven.

    Args:
        certificate: of the model that drew the samples.
        x: images of 0 and 1, (B, H, W).
        apart: `distances` of them.
    """
    functions = [certificate.likelihood(x), *certificate.priors.values()]
    read = [k * apart[j].read for constants in functions for j, k in constants.items()]
    soft = [k * certificate.values[j] * apart[j].soft for constants in functions for j, k in constants.items()]
    # Both are bounds. `read` is the smaller one, unless both distances are at the floor of `_root`.
    total = torch.stack(soft).sum(0)
    return Bound(total, torch.minimum(torch.stack(read).sum(0), total))


def local_bound(model: HDVAE, x: Tensor, terms: Terms, hard: Mapping[Node, Draw]) -> Bound:
    """The same sums with the largest gradients found on the way from H(z̃) to z̃: an estimate, not a bound.

    The constants are detached: the gradient of the result is that of the distances.

    Args:
        model: that drew the samples.
        x: images of 0 and 1, (B, H, W).
        terms: of the relaxed chain.
        hard: `hardened` of them.
    """
    apart = distances(terms, hard)
    found = [_slopes(model, x, terms, hard, place) for place in SEGMENT]
    soft, read = [], []
    for function, j in found[0]:
        steepest_soft = torch.stack([slopes[function, j].soft for slopes in found]).amax(0)
        steepest_read = torch.stack([slopes[function, j].read for slopes in found]).amax(0)
        soft.append(steepest_soft * apart[j].soft)
        read.append(steepest_read * apart[j].read)
    return Bound(torch.stack(soft).sum(0), torch.stack(read).sum(0))


Slopes = dict[tuple[int, Node], Distance]


def _slopes(model: HDVAE, x: Tensor, terms: Terms, hard: Mapping[Node, Draw], place: float) -> Slopes:
    """Gradient norms of each function (log p(x|·), then each log p(z_i|·)) in each layer of its context."""
    between = {
        layer.node: torch.lerp(hard[layer.node].read, layer.draw.read, place).detach().requires_grad_()
        for layer in terms.layers
    }
    slopes: Slopes = {}
    with torch.enable_grad():
        priors, logits = model.score({j: Draw(hard[j].hard, read) for j, read in between.items()})
        functions = [bernoulli_log_prob(x, logits)]
        functions += [-replace(layer, p=priors[layer.node]).expected_log_ratio() for layer in terms.layers]
        for index, function in enumerate(functions):
            if not function.requires_grad:  # no context, and frozen weights, as averaged ones are
                continue
            gradients = torch.autograd.grad(
                function.sum(), list(between.values()), retain_graph=True, allow_unused=True, materialize_grads=False
            )
            for j, gradient in zip(between, gradients, strict=True):
                if gradient is not None:
                    slopes[index, j] = _slope(model, j, gradient)
    return slopes


def _slope(model: HDVAE, node: Node, gradient: Tensor) -> Distance:
    """Norms of a gradient in the reads, and of what it is in the relaxed samples: V_n g_n for each variable n."""
    layer, gradient = memory(model, node), gradient.double()
    g_BND = gradient.view(len(gradient), layer.variables, -1)
    gram_NDD = layer.gram().expand(layer.variables, -1, -1)  # ‖V g‖² = gᵀ(VᵀV)g, whatever the number of slots
    squared = torch.einsum("bnd,nde,bne->b", g_BND, gram_NDD, g_BND)
    return Distance(squared.clamp(min=0).sqrt(), gradient.norm(dim=1))


def check(bound: Bound, relaxed: Terms, coupled: Terms, first: int = 0) -> None:
    """See that no single sample contradicts its certified bound.

    Args:
        bound: certified, of these samples.
        relaxed: terms of the relaxed chain.
        coupled: terms of the coupled chain that belongs to it.
        first: place of the first image, for the message.

    Raises:
        BoundViolated: |surrogate − coupled| is above the bound beyond rounding.
    """
    apart = (expected_log_weight(relaxed) - expected_log_weight(coupled)).abs()
    size = 1 + sum(_magnitude(terms) for terms in (relaxed, coupled))
    excess = apart - bound.read - ROUNDING * torch.finfo(relaxed.log_px.dtype).eps * size
    excess = excess.nan_to_num(-torch.inf)  # what is not a number contradicts nothing, and is seen in the metrics
    if (excess > 0).any():
        worst = int(excess.argmax())
        quantity = f"image {first + worst}: |surrogate − coupled| of one draw"
        raise BoundViolated(quantity, apart[worst].item(), bound.read[worst].item())


def _magnitude(terms: Terms) -> Tensor:
    parts = [terms.log_px, *(layer.expected_log_ratio() for layer in terms.layers)]
    return torch.stack([part.double().abs() for part in parts]).sum(0)
