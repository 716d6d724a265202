"""Presets: the networks of the paper's tables by name.

- `table2-L1` … `table2-L5`: table 2. The paper prints L = 3 in three rows; the last two of them have four and five
  layers, and are L4 and L5 here. It has no row for L = 1; N = 16 and K = 256 are a choice of this project.
- `table3`: the model of the runtimes in table 3, 6 × 16 variables with K = 256.
- `table4-L1-N12` … `table4-L6-N96`: the grid of table 4 with K = 256. The paper prints N = 98 after 12, 24 and 48,
  which should be 96. It does not say how the N variables are distributed over the layers; here they are distributed as
  evenly as possible, and the remaining ones go to the layers nearest to the data. `model.layers` can override this.

A name with `-normal` at its end is the Gaussian baseline with the same N.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hdvae.errors import InputError, nearest

TABLE2 = {
    1: [(16, 256)],
    2: [(16, 256), (8, 64)],
    3: [(16, 256), (8, 64), (4, 16)],
    4: [(16, 256), (8, 64), (4, 16), (4, 16)],
    5: [(16, 256), (8, 64), (4, 16), (4, 16), (4, 16)],
}
"""The numbers of variables and classes of z_1 … z_L, by L."""
TABLE4_LAYERS, TABLE4_VARIABLES = range(1, 7), (12, 24, 48, 96)

PAPER: dict[str, Any] = {
    "data": {"name": "binarized_mnist"},
    "model": {"layers": [{"variables": n, "classes": k} for n, k in TABLE2[2]]},
    "training": {"steps": 400_000},
}
"""The experiment of appendix A. All other settings are defaults of `Experiment`, which are those of the paper."""

STATED = ("model.wiring", "model.latent", "model.layers")
"""The settings that a preset determines."""


def names() -> list[str]:
    """The names of all presets."""
    tables = [f"table2-L{depth}" for depth in TABLE2] + ["table3"]
    tables += [f"table4-L{depth}-N{n}" for depth in TABLE4_LAYERS for n in TABLE4_VARIABLES]
    return [name + latent for name in tables for latent in ("", "-normal")]


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset, as a part of an experiment in JSON-like values.

    >>> preset("table4-L5-N12")["model"]["layers"][:3]
    [{'variables': 3, 'classes': 256}, {'variables': 3, 'classes': 256}, {'variables': 2, 'classes': 256}]

    Raises:
        InputError: there is no such preset. The message names the nearest one.
    """
    if name not in names():
        raise InputError(f"no preset {name}{nearest(name, names())}")
    table = name.removesuffix("-normal")
    sizes = _sizes(table)
    layers = [{"variables": n, "classes": k} for n, k in sizes]
    latent = "normal" if name.endswith("-normal") else "categorical"
    return {"model": {"wiring": "skip_lvae", "latent": latent, "layers": layers}}


def _sizes(table: str) -> list[tuple[int, int]]:
    if table == "table3":
        return [(16, 256)] * 6
    numbers = [int(number) for number in re.findall(r"\d+", table)]
    if table.startswith("table2"):
        return TABLE2[numbers[1]]
    return [(n, 256) for n in split_variables(numbers[2], numbers[1])]


def split_variables(total: int, layers: int) -> list[int]:
    """The number of variables in each of L layers, z_1 first.

    They are as equal as possible; the first layers, nearest to the data, have one more each.

    >>> split_variables(48, 5)
    [10, 10, 10, 9, 9]
    """
    share, rest = divmod(total, layers)
    return [share + (i < rest) for i in range(layers)]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two JSON-like mappings recursively. If both have a field, and one value is not a mapping, `over` wins.

    >>> merged({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}})
    {'a': {'b': 1, 'c': [3]}}
    """
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def expanded(experiment: Any) -> Any:
    """An experiment with the settings of its `preset`, if it names one. Its own fields override the preset."""
    if not isinstance(experiment, Mapping) or "preset" not in experiment:
        return experiment
    own = {key: value for key, value in experiment.items() if key != "preset"}
    return merged(preset(str(experiment["preset"])), own)
