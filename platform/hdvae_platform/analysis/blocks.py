"""Runs in blocks: within a block they share the seed and every varied setting except one."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.run_settings import setting, value_of, varied_in
from hdvae_platform.study.space import PRESET, fits
from hdvae_platform.tracking.client import TrackedRun


@dataclass(frozen=True)
class Block:
    """Runs that share the seed and every varied setting except the one in question.

    Attributes:
        seed: the seed of the runs.
        values: level of the setting → metric, the mean where several runs have the level.
        runs: level → MLflow's ids of its runs.
    """

    seed: int
    values: Mapping[float, float]
    runs: Mapping[float, Sequence[str]] = field(default_factory=dict)

    @property
    def row(self) -> list[float]:
        """The values in the order of their levels."""
        return [self.values[level] for level in sorted(self.values)]


def blocks_of(compared: Sequence[Arm], path: str, metric: str) -> list[Block]:
    """The runs of arms in blocks.

    Args:
        compared: arms, grouped by everything that was varied.
        path: path of the setting; with stars, as in `model.layers.*.variables`, the sum of all that match.
        metric: full name; for a bias |δ| the values are δ, since |δ| grows with noise alone.

    Raises:
        InputError: the setting is unknown, not a number, or the same in all runs.
    """
    _check_known(compared, path)
    by_block: dict[str, list[tuple[TrackedRun, float, float]]] = {}
    for arm in compared:
        for run, value in zip(arm.runs, arm.each_signed(metric), strict=True):
            level = _level(run, path)
            if value is not None and level is not None:
                key = json.dumps([arm.settings.get("study"), run.seed, _other_settings(run, path)], sort_keys=True)
                by_block.setdefault(key, []).append((run, level, value))
    levels = sorted({level for same in by_block.values() for _, level, _ in same})
    if len(levels) < 2:
        value_of_all = "no value" if not levels else f"the value {levels[0]:g}"
        raise InputError(f"--trend {path}: all runs have {value_of_all} there, so there is no trend to test")
    return [_block(same) for same in by_block.values()]


def _block(same: Sequence[tuple[TrackedRun, float, float]]) -> Block:
    """A block of runs, each with its level and metric."""
    values: dict[float, list[float]] = {}
    for _, level, value in same:
        values.setdefault(level, []).append(value)
    means = {level: statistics.fmean(each) for level, each in values.items()}
    runs = {level: [run.run_id for run, at, _ in same if at == level] for level in values}
    return Block(same[0][0].seed, means, runs)


def _check_known(compared: Sequence[Arm], path: str) -> None:
    known = {one for arm in compared for run in arm.runs for one in (*run.params, *varied_in(run))}
    if not any(fits(one, path) for one in known):
        raise InputError(f"--trend {path}: no such setting{nearest(path, known)}")


def _level(run: TrackedRun, path: str) -> float | None:
    """The setting of a run, or the sum of those that match the path; None where the run has none."""
    fitting = [one for one in {*run.params, *varied_in(run)} if fits(one, path)]
    if not fitting:
        return None
    values = [setting(run, one) for one in fitting]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(
                f"--trend {path}: a trend needs numbers, and some run has {json.dumps(value)}: select runs with --where"
            )
    return float(sum(values))


def _other_settings(run: TrackedRun, path: str) -> dict[str, Any]:
    """The varied settings of a run except the one in question.

    A varied list or preset that contains the setting is replaced by its other parts: a preset by every other setting
    of the run.
    """
    varied = varied_in(run)
    containers = {one for one in varied if one == PRESET or _contains(one, path)}
    rest = {one: value for one, value in varied.items() if one not in containers and not fits(one, path)}
    for one in run.params:
        part = PRESET in containers or any(one.startswith(f"{above}.") for above in containers)
        if part and one not in ("seed", PRESET) and not fits(one, path):
            rest[one] = value_of(run.params[one])
    return rest


def _contains(one: str, path: str) -> bool:
    """Whether a setting contains the one in question."""
    parts = path.split(".")
    return any(fits(one, ".".join(parts[:n])) for n in range(1, len(parts)))
