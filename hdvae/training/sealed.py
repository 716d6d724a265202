"""Files that say that they are whole and where they belong: JSON documents with a checksum of what they hold.

Every version of hdvae writes these four fields, so that each can tell a damaged file from one of a later version:

    {"version": 1, "run": "first/trial-0002/seed-0", "file": "journal/000000300-0001.json", …, "sha256": "…"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hdvae.errors import Damaged, InputError
from hdvae.version import __version__

FORMAT = 1
"""The version of all files that a run or a study leaves. A later format is refused, an earlier one may be read."""


@dataclass(frozen=True)
class Document:
    """A whole document.

    Attributes:
        run: the folder of its run, or of its study, below the storage root.
        content: what it holds.
    """

    run: str
    content: dict[str, Any]


def seal(run: str, file: str, content: Mapping[str, Any]) -> bytes:
    """A document that says that it is whole and where it belongs.

    Args:
        run: the folder of its run, or of its study, below the storage root.
        file: its name in that folder.
        content: JSON-like values.
    """
    body = {"version": FORMAT, "run": run, "file": file, **content}
    return json.dumps({**body, "sha256": _digest(body)}, indent=1).encode()


def unseal(data: bytes, address: str, file: str, run: str | None = None) -> Document:
    """Read a document.

    Args:
        data: the contents of its file.
        address: of the file, for messages.
        file: the name that it must have in the folder of its run.
        run: the run to which it must belong; None if that is not known.

    Raises:
        Damaged: it is not what was written, or belongs elsewhere.
        InputError: a later version of hdvae wrote it.
    """
    try:
        body = json.loads(data)
        whole = body.pop("sha256") == _digest(body)
        version, belongs, name = int(body.pop("version")), str(body.pop("run")), str(body.pop("file"))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise Damaged(f"{address} is damaged: it is not what was written") from None
    if not whole:
        raise Damaged(f"{address} is damaged: its checksum differs")
    if version > FORMAT:
        raise InputError(
            f"{address} has format {version}, but hdvae {__version__} reads formats up to {FORMAT}: "
            "use the version that wrote it"
        )
    if name != file or run not in (None, belongs):
        raise Damaged(f"{address} belongs elsewhere: it was written as {belongs}/{name}")
    return Document(belongs, body)


def _digest(body: Mapping[str, Any]) -> str:
    """The checksum of JSON-like values in the form in which they are read again."""
    text = json.dumps(json.loads(json.dumps(body)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
