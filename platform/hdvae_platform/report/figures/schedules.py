"""The schedules of training: temperature, free bits and learning rates against the step."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from hdvae.experiment.schedules import LEARNED, schedule, values
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn, Sheet, legend_of, render, style_of, wrapped_axis_name
from hdvae_platform.report.figures.common import caption_of, mean_line, step_axis, value_in_words

SCHEDULES = {
    "temperature": "temperature τ",
    "freebits": "free bits λ, nats per layer",
    "learning_rate": "learning rate",
    "memory_learning_rate": "learning rate of the memories",
}
"""Settings under `training` that are functions of the step, and their axes."""


def schedules(contents: Contents) -> Drawn | NotDrawn:
    """Draw the schedules that change over training or differ between arms."""
    name, title = "schedules", "Schedules"
    by_name = {key: _specs(contents.highlighted, key) for key in SCHEDULES}
    moving = {key: drawn for key, specs in by_name.items() if (drawn := [one for one in specs if _moves(one[0])])}
    constant = [line for key, specs in by_name.items() for line in _constants(key, specs, len(specs) > 1)]
    if not moving:
        return NotDrawn(name, title, f"all schedules are constant: {'; '.join(constant)}.")
    arms_drawn = [
        arm for arm in contents.highlighted if any(arm in arms for specs in moving.values() for _, arms in specs)
    ]

    def draw() -> Sheet:
        legend = [*legend_of(arms_drawn), *((None, f"constant: {line}") for line in constant)]
        sheet = Sheet([1.7] * len(moving), legend, share=True, of_arms=True)
        for axes, (key, specs) in zip(sheet.panels, moving.items(), strict=True):
            ends = []
            for spec, arms in specs:
                steps, course = _course(spec, arms[0])
                axes.plot(steps, course, **(style_of(arms[0]).plain | {"marker": ""}))
                ends += [(steps[-1], course[-1], arm) for arm in arms if steps]
            _label_ends(axes, ends)
            axes.set_ylabel(wrapped_axis_name(SCHEDULES[key]))
        step_axis(sheet.panels[-1])
        return sheet

    caption = caption_of(
        contents,
        "At the right end of a line: the arms with this schedule.",
        *([f"Constant, and not drawn: {'; '.join(constant)}."] if constant else []),
    )
    rows = [
        [SCHEDULES[key], ", ".join(arm.name for arm in arms), value_in_words(_plain(spec))]
        for key, specs in by_name.items()
        for spec, arms in specs
    ]
    alt = f"Schedules over training: {', '.join(SCHEDULES[key] for key in moving)}."
    return render(name, title, caption, alt, draw, ["schedule", "arms", "step → value"], rows)


def _label_ends(axes: Axes, ends: Sequence[tuple[int, float, ArmReport]]) -> None:
    """Write the names of arms at the right ends of their lines (step, value, arm), as a list where ends are close."""
    low, high = axes.get_ylim()
    groups: list[list[tuple[int, float, ArmReport]]] = []
    for end in sorted(ends, key=lambda end: end[1]):
        if groups and end[1] - groups[-1][0][1] < 0.1 * (high - low):
            groups[-1].append(end)
        else:
            groups.append([end])
    for group in groups:
        at = max(step for step, _, _ in group), statistics.fmean(value for _, value, _ in group)
        text = ", ".join(arm.name for arm in sorted((arm for _, _, arm in group), key=lambda arm: arm.place))
        axes.annotate(text, at, (4, 0), textcoords="offset points", va="center")


def _specs(arms: Sequence[ArmReport], key: str) -> list[tuple[Any, list[ArmReport]]]:
    """Each distinct schedule of this name with its arms; Gaussian arms have no temperature."""
    specs: list[tuple[Any, list[ArmReport]]] = []
    for arm in arms:
        if key == "temperature" and arm.experiment.model.latent == "normal":
            continue
        spec = getattr(arm.experiment.training, key)
        same = next((arms_drawn for known, arms_drawn in specs if known == spec), None)
        if same is None or spec == LEARNED:
            specs.append((spec, [arm]))
        else:
            same.append(arm)
    return specs


def _moves(spec: Any) -> bool:
    return spec == LEARNED or len(set(values(spec))) > 1


def _constants(key: str, specs: Sequence[tuple[Any, Sequence[ArmReport]]], differ: bool) -> list[str]:
    """The constant schedules of a name in words, with their arms if arms differ; empty without any."""
    each = [
        f"{values(spec)[0]:.4g}"
        + (f" (arm{'s' if len(arms) > 1 else ''} {', '.join(arm.name for arm in arms)})" if differ else "")
        for spec, arms in specs
        if not _moves(spec)
    ]
    return [f"{SCHEDULES[key]} {', '.join(each)}"] if each else []


def _course(spec: Any, arm: ArmReport) -> tuple[list[int], list[float]]:
    """The steps and values of a schedule; of a learned temperature the reported values."""
    if spec == LEARNED:
        return mean_line(arm, "train/tau")
    steps = arm.experiment.training.steps
    at = sorted({round(i * steps / 200) for i in range(201)} | {step for step in _knots(spec) if 0 <= step <= steps})
    return at, [schedule(spec)(step) for step in at]


def _knots(spec: Any) -> list[int]:
    return [int(step) for step, _ in spec] if isinstance(spec, tuple) else []


def _plain(spec: Any) -> Any:
    """A schedule as it is written in a study file."""
    if isinstance(spec, tuple):
        return [list(point) for point in spec]
    return spec.model_dump() if hasattr(spec, "model_dump") else spec
