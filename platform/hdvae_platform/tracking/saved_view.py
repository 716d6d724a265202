"""How MLflow's page shows the runs of a study: a saved view of the experiment, under the name of the study.

MLflow's page keeps saved views in tags of the experiment. Its address can name one, and its menu lists them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from hdvae_platform.tracking.names import Tag, stored_name

MAIN = "main"
"""The first group of charts."""


def view_of(study: str, metrics: Sequence[str], settings: Sequence[str], *, maximise: bool) -> dict[str, Any]:
    """The view: the study's runs sorted by the first metric, and columns and first charts of what matters.

    Args:
        study: its name.
        metrics: the metrics that matter, the most important first.
        settings: the parameters that differ between runs.
        maximise: whether the largest value of the first metric comes first.
    """
    stored = [stored_name(metric) for metric in metrics]
    return {
        **_filter(study),
        "orderByKey": f"metrics.`{stored[0]}`",
        "orderByAsc": not maximise,
        "selectedColumns": [
            *(f"metrics.`{metric}`" for metric in stored),
            *(f"params.`{setting}`" for setting in settings),
        ],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [_chart(metric) for metric in stored],
        "compareRunSections": [
            {"uuid": MAIN, "name": "what matters", "display": True, "isReordered": False, "isGenerated": False}
        ],
        "isAccordionReordered": True,  # otherwise MLflow's groups, in alphabetical order, come first
    }


def _filter(study: str) -> dict[str, Any]:
    return {
        "searchFilter": f"tags.`{Tag.STUDY}` = '{study}'",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _chart(metric: str) -> dict[str, Any]:
    return {
        "uuid": metric,
        "type": "LINE",
        "metricSectionId": MAIN,
        "isGenerated": False,
        "deleted": False,
        "displayName": metric,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "runsCountToCompare": 20,
        "xAxisKey": "step",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def view_tag(study: str) -> str:
    """The tag of the experiment that keeps the view of a study."""
    return f"{Tag.SAVED_VIEW}{study}"


def written(study: str, view: Mapping[str, Any], now: int) -> str:
    """A view as its tag has it; `now` is in milliseconds since 1970."""
    return json.dumps({"name": f"study {study}", "createdAt": now, "updatedAt": now, "state": json.dumps(view)})


def address_of(experiment: str, study: str | None, *, saved: bool) -> str:
    """The part behind `#` of a page's address: the runs of all studies, or of one, in its view if there is one.

    >>> address_of("1", "first", saved=True)
    '/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=first'
    """
    page = f"/experiments/{experiment}/runs?workflowType=machine_learning"
    if study is None:
        return page
    return (
        f"{page}&viewStateShareKey={study}" if saved else f"{page}&searchFilter={quote(_filter(study)['searchFilter'])}"
    )
