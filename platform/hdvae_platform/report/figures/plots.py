"""The figures of metrics against settings: those that a report has by itself, and those that a user asks for."""

from __future__ import annotations

from collections.abc import Sequence

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.metric_names import full_name
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn
from hdvae_platform.report.figures.metric_by_setting import Setting, metric_by_setting

SYMBOLS = {"training.temperature": "τ", "training.freebits": "λ, nats"}
"""The settings that a report plots by itself where they, or fields of their ramps, were varied, and their symbols."""


def usual_plots(contents: Contents) -> list[Drawn | NotDrawn]:
    """The study's metrics and the bias against temperature and free bits, where they vary."""
    metrics = [metric for metric in contents.metrics if any(arm.values(metric) for arm in contents.complete)]
    found = [
        Setting(path, dimension, _symbol(path))
        for plotted in SYMBOLS
        for path, dimension in contents.study.space.items()
        if f"{path}.".startswith(f"{plotted}.")
    ]
    return [metric_by_setting(contents, metrics, setting) for setting in found]


def _symbol(path: str) -> str:
    """The symbol of a setting, which stands for the start and the end of its ramp too, but not for its steps or shape.

    >>> _symbol("training.temperature.end"), _symbol("training.temperature.steps")
    ('τ', '')
    """
    return SYMBOLS.get(path.removesuffix(".start").removesuffix(".end"), "")


def asked_plots(contents: Contents, asked: Sequence[str]) -> list[Drawn | NotDrawn]:
    """The figures that a user asks for, each as `METRIC:SETTING`.

    Raises:
        InputError: a metric or setting is unknown, or does not vary; names the nearest.
    """
    return [_asked(contents, text) for text in dict.fromkeys(asked)]


def _asked(contents: Contents, text: str) -> Drawn | NotDrawn:
    metric, colon, setting = text.partition(":")
    if not colon or not metric or not setting:
        raise InputError(f"--plot {text}: write --plot METRIC:SETTING, e.g. --plot elbo:training.freebits")
    measured = {name for arm in contents.complete for name in arm.arm.metrics()}
    if full_name(metric) not in measured:
        short = {name.removeprefix("valid/") for name in measured}
        raise InputError(f"--plot {text}: no run has the metric {full_name(metric)}{nearest(metric, short)}")
    drawn = metric_by_setting(contents, [full_name(metric)], _setting(contents, text, setting))
    if isinstance(drawn, NotDrawn):
        raise InputError(f"--plot {text}: cannot be drawn: {drawn.reason.rstrip('.')}")
    return drawn


def _setting(contents: Contents, text: str, setting: str) -> Setting:
    space = contents.study.space
    ending = [path for path in space if path == setting or path.endswith(f".{setting}")]
    if setting in space or len(ending) == 1:
        path = setting if setting in space else ending[0]
        return Setting(path, space[path], _symbol(path))
    if len(ending) > 1:
        raise InputError(f"--plot {text}: which of {', '.join(ending)}?")
    ends = {path.rpartition(".")[2] for path in space}
    raise InputError(f"--plot {text}: the study did not vary {setting}{nearest(setting, {*space, *ends})}")
