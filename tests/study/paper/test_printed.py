"""The paper's numbers, and tables with ours beside them."""

from __future__ import annotations

import pytest

from hdvae.experiment.presets import names, preset
from hdvae_platform.analysis.inference import Interval
from hdvae_platform.paper import printed
from hdvae_platform.paper.tables import Result, side_by_side

NUMBERS = [
    number for tables in printed.TABLES.values() for table in tables for row in table.rows for number in row.numbers
]


PRINTED_SUMS = {
    ("L₁₀₀₀", "L₁₀₀₀ discrete"): -1109.63,
    ("L₁₀₀₀", "L₁₀₀₀ normal"): -1154.59,
    ("KL", "KL discrete"): 368.94,
    ("KL", "KL normal"): 359.95,
    ("test", "L₁ τ=0.1"): -1998.93,
    ("test", "L₁ τ=0"): -2050.73,
    ("test", "δ τ=0.1"): 51.78,
    ("6", "seconds / step"): 0.5,
    ("6", "MB"): 9968.0,
}


def test_every_cell_of_the_tables_is_there():
    sizes = {
        name: [(len(table.rows), len(table.columns)) for table in tables] for name, tables in printed.TABLES.items()
    }
    assert sizes == {"table1": [(12, 2), (12, 2)], "table3": [(2, 2)], "table4": [(24, 3)]}
    assert all(number.preset in names() for number in NUMBERS)


def test_the_numbers_are_those_that_are_printed():
    """By the sums of their columns, added up from the print: a digit that is wrong changes one."""
    sums = {
        (table.quantity.partition(" ")[0], column): round(sum(row.numbers[i].value for row in table.rows), 2)
        for table in (printed.LIKELIHOOD, printed.KL, printed.BIAS, printed.RUNTIME)
        for i, column in enumerate(table.columns)
    }
    assert sums == PRINTED_SUMS


def test_rows_are_of_the_networks_that_they_name():
    for row in printed.BIAS.rows:
        depth, variables = map(int, row.labels)
        for number in row.numbers:
            layers = preset(number.preset)["model"]["layers"]
            assert (len(layers), sum(layer["variables"] for layer in layers)) == (depth, variables)
    for table in (printed.LIKELIHOOD, printed.KL):
        for row in table.rows:
            latents = [preset(number.preset)["model"]["latent"] for number in row.numbers]
            assert latents == ["categorical", "normal"]
            assert {len(preset(number.preset)["model"]["layers"]) for number in row.numbers} == {int(row.labels[1])}
            assert {number.data for number in row.numbers} == {row.labels[0]}


def test_the_bias_is_the_printed_difference_except_where_a_fault_is_noted():
    """And the faults are noted at the right cells: those that differ do so by a hundredth."""
    noted = 0
    for row in printed.BIAS.rows:
        surrogate, elbo, bias = (number.value for number in row.numbers)
        gap = abs(round(100 * (surrogate - elbo)) - round(100 * bias))
        assert gap == (printed.ROUNDED in row.numbers[2].faults), row.labels
        noted += gap
    assert noted == 6


def test_the_faults_in_print_are_where_they_are_printed():
    for row in printed.BIAS.rows:
        depth, variables = row.labels
        assert (printed.NAMED_98 in row.faults) == (variables == "96")
        assert (printed.INDIVISIBLE in row.faults) == (depth == "5")
        assert (printed.HEAD_ELBO in row.numbers[1].faults) == (variables == "24")
        assert (printed.HEAD_BIAS in row.numbers[2].faults) == (variables == "48")
    lower = sum(row.numbers[0].value < row.numbers[1].value for row in printed.KL.rows)
    assert f"lower in {lower}" in printed.KL.notes[0]


def test_places_name_table_row_and_column():
    assert printed.BIAS.place(printed.BIAS.rows[3], 1) == "table 4, L = 1, N = 96, L₁ τ=0"
    assert (
        printed.LIKELIHOOD.place(printed.LIKELIHOOD.rows[0], 1)
        == "table 1, data = binarized_mnist, L = 1, L₁₀₀₀ normal"
    )


@pytest.fixture
def table():
    metrics = {"surrogate_elbo@tau=0.1": Interval(-90.0, -92.0, -88.0), "elbo": Interval(-93.0, None, None)}
    cells = {
        ("binarized_mnist", "table4-L1-N48"): Result(
            {**metrics, "relaxation_bias@tau=0.1": Interval(3.0, 2.9, 3.1)}, ("r",), ("s/0/0",)
        ),
        ("binarized_mnist", "table4-L2-N12"): Result({}, instead="failed"),
    }
    return side_by_side(printed.BIAS, cells)


def test_differences_are_ours_minus_the_papers_with_their_intervals(table):
    cells = table.rows[2]
    assert cells[0].difference.mean == pytest.approx(1.76)
    assert cells[0].difference.low == pytest.approx(-0.24)
    assert cells[0].difference.high == pytest.approx(3.76)
    assert (cells[1].difference.low, cells[1].difference.high) == (None, None)
    assert table.rows[0][0].difference is None


def test_a_table_in_text(table):
    text = table.text()
    run = next(line for line in text.splitlines() if line.split()[:2] == ["1", "48"])
    assert "+1.76 [-0.24, +3.76]" in run
    assert "3.11 a" in run.replace("3.11 b", "3.11 a")
    assert run.rstrip().endswith("-0.11 [-0.21, -0.01]")
    assert next(line for line in text.splitlines() if line.split()[:2] == ["2", "12"]).count("failed") == 3
    assert text.count("not run") == 3 * 22
    for fault in (printed.NAMED_98, printed.INDIVISIBLE, printed.HEAD_ELBO, printed.HEAD_BIAS, printed.ROUNDED):
        assert text.count(fault) == 1
    assert "| 1 | 48 |" in table.markdown()


def test_a_table_as_json(table):
    rows = table.plain()["rows"]
    assert len(rows) == 24
    assert rows[2]["labels"] == {"L": "1", "N": "48"}
    cell = rows[2]["cells"][2]
    assert (cell["paper"], cell["ours"]["mean"], cell["handles"], cell["run_ids"]) == (3.11, 3.0, ["s/0/0"], ["r"])
    assert cell["faults"] == [printed.HEAD_BIAS]
    assert rows[0]["cells"][0]["ours"] is None
