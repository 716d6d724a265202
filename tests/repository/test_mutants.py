"""Each mutant of `make mutants` names tests that exist, and a line that occurs once in its file."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_a_mutant_changes_one_line(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.line) == 1
    assert mutant.instead != mutant.line
    assert all((ROOT / test).exists() for test in mutant.tests.split())
