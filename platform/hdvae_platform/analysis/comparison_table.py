"""A comparison as one tidy table, for CSV and Parquet: a row for each arm, difference or trend level, and metric."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from hdvae_platform.analysis.arms import labels_of, names_of
from hdvae_platform.analysis.comparison import Comparison
from hdvae_platform.analysis.inference import interval
from hdvae_platform.study.space import set_key

ARM_COLUMNS = ("name", "arm")
MINUS_COLUMNS = ("minus_name", "minus")
VALUES = ("metric", "mean", "low", "high", "runs", "pruned", "failed", "unfinished", "seeds")
TESTS = ("paired", "p", "p_holm", "p_by_seed", "models_low", "models_high", "images")
CAVEATS_KEY = "hdvae.caveats"
"""The key of the caveats in a Parquet file's metadata."""


def tidy(comparison: Comparison) -> pd.DataFrame:
    """The table: `what` is the kind of a row; cells that do not apply to the kind are empty."""
    rows = [*_arm_rows(comparison), *_difference_rows(comparison)]
    rows += [
        {"what": "trend", "arm": f"{one.path} {level:g}", "metric": one.metric, "mean": mean, "runs": runs, "p": one.p}
        | {"p_by_seed": one.p_by_seed, "fitted": fitted}
        for one in comparison.trends
        for level, runs, mean, fitted in zip(one.levels, one.runs, one.means, one.fitted, strict=True)
    ]
    fitted_column = ["fitted"] if comparison.trends else []
    columns = ["what", *ARM_COLUMNS, *MINUS_COLUMNS, *VALUES, *TESTS, *fitted_column]
    return pd.DataFrame(rows, columns=columns).convert_dtypes()


def _arm_rows(comparison: Comparison) -> list[dict[str, Any]]:
    labels = labels_of(comparison.arms)
    return [
        {
            "what": "arm",
            "name": name,
            "arm": label,
            "metric": metric,
            **vars(interval(list(by_seed.values()))),
            **{key: getattr(arm, key) for key in ("pruned", "failed", "unfinished")},
            "runs": len(arm.values(metric)),
            "seeds": len(by_seed),
        }
        for name, label, arm in zip(names_of(comparison.arms), labels, comparison.arms, strict=True)
        for metric in comparison.metrics or arm.metrics()
        if (by_seed := arm.by_seed(metric))
    ]


def _difference_rows(comparison: Comparison) -> list[dict[str, Any]]:
    keys = [set_key(arm.settings) for arm in comparison.arms]
    labels = dict(zip(keys, labels_of(comparison.arms), strict=True))
    names, rows = comparison.names, []
    for one in comparison.differences:
        a, b = set_key(one.a.settings), set_key(one.b.settings)
        row: dict[str, Any] = {"what": "difference", "metric": one.metric}
        row |= {"name": names[a], "arm": labels[a], "minus_name": names[b], "minus": labels[b]}
        trainings = one.over_seeds
        row |= {**vars(trainings.value), "paired": trainings.paired, "seeds": trainings.seeds}
        row |= {"p": trainings.p, "p_holm": one.p_holm}
        if one.models is not None:
            value = one.models.value
            row |= {"models_low": value.low, "models_high": value.high, "images": one.models.images}
        rows.append(row)
    return rows


def as_csv(comparison: Comparison) -> bytes:
    """The table as CSV in UTF-8, which has no place for the caveats."""
    return bytes(tidy(comparison).to_csv(index=False).encode())


def as_parquet(comparison: Comparison) -> bytes:
    """The table as Parquet, with the caveats in its metadata as a JSON list under `CAVEATS_KEY`."""
    table = pa.Table.from_pandas(tidy(comparison), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), CAVEATS_KEY: json.dumps(list(comparison.caveats))}
    out = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), out)
    return out.getvalue()
