"""The five hierarchies of appendix F, each described by four facts about the contexts of q and p.

Level i of a hierarchy has deterministic bottom-up features `h_i`, computed from the image, and top-down features `d_i`,
computed from the levels above. Every prior is computed from `d_i`. A variable is sampled either in the bottom-up pass,
with a posterior from `h_i`, or in the top-down pass, with a posterior from `h_i` and `d_i`. The hierarchies differ in:

============ ============== ================ ====================== ========================
wiring       sampled in the sampled in the   h_i also from h_{i-1}  d_i also from d_{i+1}
             bottom-up pass top-down pass    (skip)                 (skip)
============ ============== ================ ====================== ========================
vae          z_1 … z_L                       no: q(z_i|z_{i-1})     no: p(z_i|z_{i+1})
skip_vae     z_1 … z_L                       yes: q(z_i|z_{<i}, x)  yes: p(z_i|z_{>i})
lvae                        z_L … z_1        yes                    no: p, q(·|z_{i+1}, …)
skip_lvae                   z_L … z_1        yes                    yes: p, q(·|z_{>i}, …)
biva         z_i up, i < L  z_L, z_i down    yes                    yes
============ ============== ================ ====================== ========================

Source: equations 17 to 22. With a top-down skip the decoder depends on all of z, without it on z_1 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Node:
    """One group of latent variables.

    Attributes:
        level: its level; level 1 is next to the data.
        direction: the pass in which it is sampled: `up` (bottom-up) or `down` (top-down).
    """

    level: int
    direction: Direction


@dataclass(frozen=True)
class Wiring:
    """The four facts of a hierarchy; see the table of this module."""

    samples_up: bool
    samples_down: bool
    skip_up: bool
    skip_down: bool

    def nodes(self, levels: int) -> tuple[Node, ...]:
        """All groups of variables, in the order in which they are sampled under q."""
        up = levels if not self.samples_down else levels - 1
        going_up = [Node(i, "up") for i in range(1, up + 1)] if self.samples_up else []
        going_down = [Node(i, "down") for i in range(levels, 0, -1)] if self.samples_down else []
        return tuple(going_up + going_down)

    def name(self, node: Node, levels: int) -> str:
        """The name of a node in metrics: `layer_i`, with the direction if the level has two groups."""
        two = sum(other.level == node.level for other in self.nodes(levels)) == 2
        return f"layer_{node.level}_{node.direction}" if two else f"layer_{node.level}"

    def prior_context_first(self, node: Node, levels: int) -> bool:
        """Whether the context z_{>i} of p is sampled before z_i under q.

        If so, H(z̃_i) follows q given the contexts, and E[log q/p] is a finite sum, the KL.
        """
        return node.direction == "down" or node.level == levels


WIRINGS: dict[str, Wiring] = {
    "vae": Wiring(samples_up=True, samples_down=False, skip_up=False, skip_down=False),
    "skip_vae": Wiring(samples_up=True, samples_down=False, skip_up=True, skip_down=True),
    "lvae": Wiring(samples_up=False, samples_down=True, skip_up=True, skip_down=False),
    "skip_lvae": Wiring(samples_up=False, samples_down=True, skip_up=True, skip_down=True),
    "biva": Wiring(samples_up=True, samples_down=True, skip_up=True, skip_down=True),
}
