"""Differences between two versions of a study, in words."""

from __future__ import annotations

import json
from typing import Any


def first_difference(before: Any, after: Any, path: str = "") -> str | None:
    """The first place at which two JSON-like values differ, in words; None if they are equal.

    >>> first_difference({"a": [1, 2]}, {"a": [1, 3]})
    'a.1 was 2, is 3'
    """
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(key, before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(i), b, a) for i, (b, a) in enumerate(zip(before, after, strict=True))]
    else:
        return None if before == after else f"{path} was {json.dumps(before)}, is {json.dumps(after)}"
    inside = (first_difference(b, a, f"{path}.{key}" if path else str(key)) for key, b, a in pairs)
    return next((difference for difference in inside if difference is not None), None)
