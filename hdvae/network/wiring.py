"""The five hierarchies of appendix F, each as four facts about which contexts reach q and p.

A level i of the hierarchy has deterministic features on the way up, `h_i` (from the image), and on the way
down, `d_i` (from what lies above). Every prior is read from `d_i`. A variable is sampled either on the way up,
with a posterior read from `h_i`, or on the way down, with a posterior read from `h_i` merged with `d_i`.
What differs between the hierarchies is only:

============ ============== ================ ====================== ========================
wiring       sampled going  sampled going    h_i also made of       d_i also made of d_{i+1}
             up             down             h_{i-1} (skip)         (skip)
============ ============== ================ ====================== ========================
vae          z_1 … z_L                       no: q(z_i|z_{i-1})     no: p(z_i|z_{i+1})
skip_vae     z_1 … z_L                       yes: q(z_i|z_{<i}, x)  yes: p(z_i|z_{>i})
lvae                        z_L … z_1        yes                    no: p, q(·|z_{i+1}, …)
skip_lvae                   z_L … z_1        yes                    yes: p, q(·|z_{>i}, …)
biva         z_i up, i < L  z_L, z_i down    yes                    yes
============ ============== ================ ====================== ========================

Equations 17 to 22. With a skip on the way down the decoder is given all of z, without it z_1 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Node:
    """One group of latent variables: its level (1 is next to the data) and the direction it is sampled in."""

    level: int
    direction: Direction


@dataclass(frozen=True)
class Wiring:
    """Which contexts reach q and p; see the table of this module."""

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
        """What a node is called in metrics: `layer_i`, with its direction where a level has two."""
        two = sum(other.level == node.level for other in self.nodes(levels)) == 2
        return f"layer_{node.level}_{node.direction}" if two else f"layer_{node.level}"

    def prior_context_first(self, node: Node, levels: int) -> bool:
        """Whether p's context z_{>i} is sampled before z_i under q.

        Then, given its contexts, H(z̃_i) follows q and E[log q/p] is a finite sum, the KL.
        """
        return node.direction == "down" or node.level == levels


WIRINGS: dict[str, Wiring] = {
    "vae": Wiring(samples_up=True, samples_down=False, skip_up=False, skip_down=False),
    "skip_vae": Wiring(samples_up=True, samples_down=False, skip_up=True, skip_down=True),
    "lvae": Wiring(samples_up=False, samples_down=True, skip_up=True, skip_down=False),
    "skip_lvae": Wiring(samples_up=False, samples_down=True, skip_up=True, skip_down=True),
    "biva": Wiring(samples_up=True, samples_down=True, skip_up=True, skip_down=True),
}
