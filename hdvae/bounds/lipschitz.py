"""Certified Lipschitz constants of the generative network: the proven κ of eqs. 7 to 12.

A `Region` (`hdvae.bounds.regions`) of features is propagated through the network, from the convex hulls of the memories
to the pixels. It contains all features that can occur, which bounds the gates. Products and sums of the constants of
the parts are also how AutoLip bounds a network (Virmaux and Scaman 2018), there without regions.

Everything is in float64 and differentiable. The constants are those of the network without dropout. They are upper
bounds, since the norms of `hdvae.bounds.norms` are; for an unconstrained network (`decoder: free`) they are loose.

There is one constant κ_j for each layer j of latent variables that a function depends on:
|f(y) − f(y′)| ≤ Σ_j κ_j ‖y_j − y′_j‖₂. By the Cauchy-Schwarz inequality, the sum is never above the bound with one
joint constant √(Σ κ_j²); for one layer they are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hdvae.bounds.norms import matrix_norm, module_norm
from hdvae.bounds.regions import Part, Propagation, Region, prefixed, propagate
from hdvae.latents.layers import MemoryLayer
from hdvae.network.model import HDVAE
from hdvae.network.wiring import Node

TINY = 1e-30
"""Added under square roots, so that their derivative is finite at 0; it can only increase a bound."""
MAX_PAIRED_KEYS = 2048
"""Largest number of keys for which the distances of all pairs are computed."""
MAX_MAPPED_SLOTS = 4096
"""Largest number of slots of a memory that are mapped one by one."""


@dataclass(frozen=True)
class Certificate:
    """The Lipschitz constants of the generative network; the dictionaries are by layer of latent variables.

    Attributes:
        logits: a region that contains the logits of the pixels.
        decoder: for each layer j, the Lipschitz constant of the logits in its reads y_j.
        priors: for each layer i, the Lipschitz constants of log p(z_i = any class|·) in the reads y_j of each layer j
            of its context; the top layer has no context.
        values: for each layer j, the spectral norm of the map from z̃_j to y_j.
        names: the names of the layers.
        parts: the factors of all constants.
    """

    logits: Region
    decoder: Mapping[Node, Tensor]
    priors: Mapping[Node, Mapping[Node, Tensor]]
    values: Mapping[Node, Tensor]
    names: Mapping[Node, str]
    parts: tuple[Part, ...]

    def slope(self, x: Tensor) -> Tensor:
        """Largest ‖x − σ(logits)‖₂ on the region, the gradient norm of log p(x|·): (B, H, W) → (B,), float64."""
        x = x.double()
        white, black = self.logits.high.sigmoid(), (-self.logits.low).sigmoid()
        return (((1 - x) * white.square() + x * black.square()).flatten(1).sum(1) + TINY).sqrt()

    @property
    def steepest(self) -> Tensor:
        """Largest `slope` over all images, 0-dim."""
        return steepest(self.logits)

    def likelihood(self, x: Tensor) -> dict[Node, Tensor]:
        """For each layer, the Lipschitz constants of log p(x|·) in its reads for each image: (B,)."""
        return {node: self.slope(x) * constant for node, constant in self.decoder.items()}

    def constants(self) -> dict[str, float]:
        """All κ that hold for every image, by name: in the reads y, and in the relaxed samples z̃."""
        functions = {"log p(x|·)": {j: self.steepest * constant for j, constant in self.decoder.items()}}
        functions |= {f"log p({self.names[i]}|·)": dict(context) for i, context in self.priors.items()}
        out = {}
        for function, constants in functions.items():
            for j, constant in constants.items():
                out[f"{function} in the reads of {self.names[j]}"] = constant.item()
                out[f"{function} in z̃ of {self.names[j]}"] = (constant * self.values[j]).item()
        return out


def steepest(logits: Region) -> Tensor:
    """Largest ‖x − σ(logits)‖₂ over all images of 0 and 1 and a region of logits, 0-dim."""
    worst = torch.maximum(logits.high.sigmoid(), (-logits.low).sigmoid())
    return (worst.square().sum() + TINY).sqrt()


def certify(model: HDVAE, *, tight: bool = True) -> Certificate:
    """Compute the certified Lipschitz constants of a model.

    Args:
        model: a model with categorical latent variables.
        tight: whether to compute the norms of maps that are contractions by construction, instead of using the bound 1
            (`hdvae.bounds.norms`). Without this the certificate of a Lipschitz decoder costs almost nothing.

    Raises:
        TypeError: the latent variables are not categorical. Normal variables have no bounded hull.
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
            head = propagate(level.priors[node.direction], d, tight)
            keys = key_constant(memory(model, node))
            priors[node] = {j: constant * head.constant * keys for j, constant in constants.items()}
            parts += [prefixed(f"level {i}: prior", part) for part in head.parts]
            parts.append(Part(f"level {i}: keys", keys.item()))
        read = propagate_hulls(level.expand_down, [memory(model, node).values for node in level.nodes], tight)
        parts += [prefixed(f"level {i}: expand", part) for part in read.parts]
        own = dict.fromkeys(level.nodes, read.constant)
        skip = model.wiring.skip_down
        propagation = propagate(level.down, d + read.region if skip else read.region, tight)
        constants = {
            j: constant * propagation.constant for j, constant in ({**constants, **own} if skip else own).items()
        }
        d = propagation.region
        parts += [prefixed(f"level {i}: down", part) for part in propagation.parts]
    last = propagate(model.logits, d, tight)
    parts += [prefixed("logits", part) for part in last.parts]
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
        raise TypeError("a Lipschitz bound needs memories: the latent variables must be categorical")
    return layer


def key_constant(layer: MemoryLayer) -> Tensor:
    """Lipschitz constant of the log-probability of any classes of the layer in its queries, 0-dim.

    The gradient of the log-probability of one variable in its query is Kᵀ(e_k − π) = Σ_j π_j (k_k − k_j). Its norm is
    at most the largest distance between two keys; over variables and key parts, the squares of the constants add.
    """
    spread = torch.stack([_diameter(keys) for keys in layer.keys_PNMQ.double().flatten(0, 1)])
    return (spread.square().sum() + TINY).sqrt()


def _diameter(points: Tensor) -> Tensor:
    """An upper bound of the largest distance between two of the points (M, Q), 0-dim; exact up to `MAX_PAIRED_KEYS`.

    For more points it is twice the largest distance from their mean.
    """
    if len(points) <= MAX_PAIRED_KEYS:
        return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").amax()
    return 2 * (points - points.mean(0)).square().sum(1).amax().sqrt()


def value_norm(layer: MemoryLayer) -> Tensor:
    """Spectral norm of the map from z̃ to the reads, 0-dim. It is block diagonal: the largest norm of a variable."""
    return torch.stack([matrix_norm(values) for values in layer.values_NKD]).amax()


def propagate_hulls(module: nn.Module, values: Sequence[Tensor], tight: bool) -> Propagation:
    """Propagate the convex hulls of memories through the module that maps their reads to features.

    A linear function takes its extremes over a product of hulls at one slot of each. The box is therefore exact up to
    `MAX_MAPPED_SLOTS` slots; for more slots it is that of the box around them.

    Args:
        module: the module; its first part is linear.
        values: the values of each memory, (N, K, D).
        tight: see `hdvae.bounds.norms.module_norm`.
    """
    first, *rest = module.children() if isinstance(module, nn.Sequential) else [module]
    assert isinstance(first, nn.Linear)
    weight, bias, norm = first.weight.double(), first.bias.double(), module_norm(first, tight=tight)
    low, high, centre, squared = bias, bias, bias, bias.new_zeros(())
    memories = [slots_KD for layer in values for slots_KD in layer]
    for block, slots in zip(torch.split(weight, [s.shape[1] for s in memories], 1), memories, strict=True):
        slots_KD = slots.double()
        (least, most), middle = _limits_on_hull(block, slots_KD), slots_KD.mean(0)
        low, high, centre = low + least, high + most, centre + block @ middle
        squared = squared + (slots_KD - middle).square().sum(1).amax()
    region = Region(low, high, centre, norm * squared.sqrt()).within_ball()
    for module_ in rest:
        region = propagate(module_, region, tight).region
    return Propagation(region, norm, (Part("", norm.item()),))


def _limits_on_hull(block: Tensor, slots_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper limits of a linear map (O, D) on the convex hull of the slots, (O,) each."""
    if len(slots_KD) <= MAX_MAPPED_SLOTS:
        mapped = block @ slots_KD.T
        return mapped.amin(1), mapped.amax(1)
    low, high = slots_KD.amin(0), slots_KD.amax(0)
    middle, spread = block @ ((low + high) / 2), block.abs() @ ((high - low) / 2)
    return middle - spread, middle + spread
