"""All figures of a report."""

from __future__ import annotations

from collections.abc import Sequence

from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn
from hdvae_platform.report.figures.bias_by_temperature import bias_by_temperature
from hdvae_platform.report.figures.bias_by_variables import bias_by_variables
from hdvae_platform.report.figures.importance import importance
from hdvae_platform.report.figures.learning_curves import learning_curves
from hdvae_platform.report.figures.memory_size import memory_size
from hdvae_platform.report.figures.parallel_coordinates import parallel_coordinates
from hdvae_platform.report.figures.pareto_front import pareto_front
from hdvae_platform.report.figures.plots import asked_plots, usual_plots
from hdvae_platform.report.figures.schedules import schedules


def all_figures(contents: Contents, asked: Sequence[str] = ()) -> list[Drawn | NotDrawn]:
    """All figures, in the order of the page.

    Args:
        contents: of the report.
        asked: further figures, each as `METRIC:SETTING`.

    Raises:
        InputError: one of them names an unknown metric or setting.
    """
    return [
        *asked_plots(contents, asked),
        learning_curves(contents),
        *usual_plots(contents),
        bias_by_temperature(contents),
        bias_by_variables(contents),
        memory_size(contents),
        pareto_front(contents),
        parallel_coordinates(contents),
        importance(contents),
        schedules(contents),
    ]
