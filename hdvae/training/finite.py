"""Whether the quantities of training steps are finite, found out without waiting for the device in every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hdvae.errors import NonFinite


class FirstNonFinite:
    """Remembers, on the device, the first step in which a quantity is not finite.

    Args:
        names: the names of the quantities.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._found: Tensor | None = None
        """(1 + quantities,): the first step that has one, else the last step, and whether each of its quantities is."""

    def note(self, step: int, quantities: Sequence[Tensor]) -> None:
        """Note the quantities of a step, scalars; no value is read from the device."""
        finite = torch.isfinite(torch.stack(list(quantities))).long()
        seen = torch.cat([finite.new_full((1,), step), finite])
        self._found = seen if self._found is None else torch.where(self._found[1:].all(), seen, self._found)

    def check(self) -> None:
        """Wait for the device, and check the steps that were noted.

        Raises:
            NonFinite: with the first step in which a quantity was not finite, and the first such quantity.
        """
        if self._found is None:
            return
        step, *finite = self._found.tolist()
        self._found = None
        for name, is_finite in zip(self._names, finite, strict=True):
            if not is_finite:
                raise NonFinite(step, name)
