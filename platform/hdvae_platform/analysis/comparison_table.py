"""A comparison as one tidy table, for CSV and Parquet: a row for each arm, difference or trend level, and metric."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from hdvae_platform.analysis.arms import labels
from hdvae_platform.analysis.comparison_text import Shown
from hdvae_platform.analysis.inference import interval
from hdvae_platform.study.space import set_key

COLUMNS = ("what", "arm", "minus", "metric", "mean", "low", "high", "runs", "pruned", "failed", "unfinished", "seeds")
TESTS = ("paired", "p", "p_holm", "p_by_seed", "models_low", "models_high", "images")


def tidy(found: Shown) -> pd.DataFrame:
    """The table: `what` says of what kind a row is; cells that its kind has not are empty."""
    rows = [*_arm_rows(found), *_difference_rows(found)]
    rows += [
        {"what": "trend", "arm": f"{one.path} {level:g}", "metric": one.metric, "mean": mean, "runs": runs, "p": one.p}
        | {"p_by_seed": one.by_seed, "fitted": fitted}
        for one in found.trends
        for level, runs, mean, fitted in zip(one.levels, one.runs, one.means, one.fitted, strict=True)
    ]
    columns = [*COLUMNS, *TESTS, *(["fitted"] if found.trends else [])]
    return pd.DataFrame(rows, columns=columns).convert_dtypes()


def _arm_rows(found: Shown) -> list[dict[str, Any]]:
    return [
        {
            "what": "arm",
            "arm": told,
            "metric": metric,
            **vars(interval(list(by_seed.values()))),
            **{key: getattr(arm, key) for key in ("pruned", "failed", "unfinished")},
            "runs": len(arm.values(metric)),
            "seeds": len(by_seed),
        }
        for told, arm in zip(labels([arm.arm for arm in found.arms]), found.arms, strict=True)
        for metric in found.metrics or arm.metrics()
        if (by_seed := arm.by_seed(metric))
    ]


def _difference_rows(found: Shown) -> list[dict[str, Any]]:
    arms = [arm.arm for arm in found.arms]
    told = dict(zip(map(set_key, arms), labels(arms), strict=True))
    rows = []
    for one in found.differences:
        a, b = told[set_key(one.a)], told[set_key(one.b)]
        row: dict[str, Any] = {"what": "difference", "arm": a, "minus": b, "metric": one.metric}
        apart = one.trainings
        row |= {**vars(apart.value), "paired": apart.paired, "seeds": apart.seeds, "p": apart.p, "p_holm": one.p_holm}
        if one.models is not None:
            value = one.models.value
            row |= {"models_low": value.low, "models_high": value.high, "images": one.models.images}
        rows.append(row)
    return rows


def as_csv(found: Shown) -> bytes:
    """The table as CSV in UTF-8; it has no place for the marks."""
    return bytes(tidy(found).to_csv(index=False).encode())


def as_parquet(found: Shown) -> bytes:
    """The table as Parquet, with the marks in its metadata as `hdvae.marks`, a JSON list."""
    table = pa.Table.from_pandas(tidy(found), preserve_index=False)
    noted = {**(table.schema.metadata or {}), "hdvae.marks": json.dumps(list(found.marks))}
    out = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(noted), out)
    return out.getvalue()
