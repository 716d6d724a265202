"""Documents that say that they are whole and where they belong."""

from __future__ import annotations

import contextlib
import json

import pytest

from hdvae.errors import Damaged, InputError
from hdvae.training import sealed
from hdvae.training.sealed import seal, unseal

RUN, FILE = "first/trial-0002/seed-0", "journal/000000300-0001.json"
CONTENT = {"step": 300, "metrics": {"valid/elbo": -0.1, "valid/kl": float("inf")}, "of": [1, None, "é"]}


def read(data, run=RUN, file=FILE):
    return unseal(data, f"/studies/{RUN}/{FILE}", file, run).content


def test_what_was_written_is_read():
    assert read(seal(RUN, FILE, CONTENT)) == CONTENT
    assert unseal(seal(RUN, FILE, CONTENT), "", FILE).run == RUN


def test_no_flipped_bit_and_no_cut_passes_for_something_else():
    """Each bit of it, and each length: what is read is what was written, or nothing."""
    data = seal(RUN, FILE, CONTENT)
    found = [data[:length] for length in range(len(data))]
    for place in range(len(data)):
        found += [data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :] for bit in range(8)]
    noticed = 0
    for changed in found:
        with contextlib.suppress(Damaged):
            noticed += 1
            assert read(changed) == CONTENT
            noticed -= 1
    assert noticed > 0.8 * len(found), "the rest is white space between values"


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"sha256": 1}', b"\x80", b"[" * 10**5])
def test_what_was_never_written_is_damaged(data):
    with pytest.raises(Damaged, match="is damaged"):
        read(data)


@pytest.mark.parametrize("where", [{"run": "first/trial-0002/seed-1"}, {"file": "journal/000000600-0001.json"}])
def test_what_belongs_elsewhere_is_not_taken(where):
    with pytest.raises(Damaged, match=f"belongs elsewhere: it was written as {RUN}/{FILE}"):
        read(seal(RUN, FILE, CONTENT), **where)


def test_a_later_format_is_refused_in_one_line(monkeypatch):
    """It is no damage: an older file is not taken instead."""
    monkeypatch.setattr(sealed, "FORMAT", 2)
    data = seal(RUN, FILE, CONTENT)
    assert json.loads(data)["version"] == 2
    monkeypatch.undo()
    with pytest.raises(
        InputError, match=r"000000300-0001.json has format 2, but hdvae \S+ reads formats up to 1"
    ) as fault:
        read(data)
    assert not isinstance(fault.value, Damaged)
