from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvae_platform.search.run_table import RunTable
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState

SEEDS = (3, 4)
STATES = tuple(RunState)
RUNS = st.builds(
    lambda trial, which, state: Run(trial, which[0], state, 1, None, None, None, False, which[1]),
    st.integers(0, 2),
    st.sampled_from([(3, "search"), (4, "search"), (9, "confirmation")]),
    st.sampled_from(STATES),
)


@given(st.lists(RUNS), st.booleans())
def test_counts_are_those_of_a_look_at_all_runs(puts, pruned):
    table = RunTable(SEEDS, pruned, puts[:2])
    for run in puts[2:]:
        table.put(run)
    newest = {(run.trial, run.seed): run for run in puts}
    assert table.all() == [newest[key] for key in sorted(newest)]
    for kind in ("search", "confirmation"):
        assert table.count(kind) == sum(run.kind == kind for run in newest.values())
    search = [run for run in newest.values() if run.kind == "search"]
    assert table.searching == any(run.state in ("WAITING", "RUNNING") for run in search)
    ended_first = [run.trial for run in search if pruned and run.seed == 3 and run.state in ("PRUNED", "FAIL")]
    assert table.spared == sum((trial, 4) not in newest for trial in ended_first)
    for trial in range(3):
        assert table.of(trial) == [run for run in table.of(trial) if run.trial == trial and run.kind == "search"]
        assert len(table.of(trial)) == sum(run.trial == trial for run in search)


def test_a_run_is_found_by_trial_and_seed():
    table = RunTable(SEEDS, False, [Run.fresh(5, 3)])
    assert table[5, 3] == Run.fresh(5, 3)
    assert ((5, 3) in table, (5, 4) in table, (6, 3) in table) == (True, False, False)
    with pytest.raises(KeyError):
        table[6, 3]
