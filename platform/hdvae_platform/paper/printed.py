"""The numbers that the paper prints, each with its network and with the faults of the print.

Nothing is corrected: a number is given as printed, with its fault beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdvae.experiment.presets import TABLE4_LAYERS, TABLE4_VARIABLES
from hdvae.experiment.presets import names as presets

LOWER_KL = (
    "the text says that the measured KL is higher for the discrete model; in table 1 it is lower in {lower} of the 12 "
    "pairs"
)
NAMED_98 = "printed as 'N = 98'; after 12, 24 and 48 it must be 96"
INDIVISIBLE = "N is not divisible by 5; the paper does not say how it is split over the layers"
HEAD_ELBO = "the head of this column is printed as 'L₁ τ=0.1', like the one before; it must be 'L₁ τ=0'"
HEAD_BIAS = "the head of this column is printed as 'δ τ=0'; it must be 'δ τ=0.1'"
ROUNDED = "differs by 0.01 from the difference of the two numbers printed to its left"


@dataclass(frozen=True)
class Number:
    """A number as printed.

    Attributes:
        value: nats per image; in table 3 seconds or megabytes.
        metric: this project's name of the quantity.
        preset: the network, as a preset.
        data: the data set.
        faults: faults of the print.
    """

    value: float
    metric: str
    preset: str
    data: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table: its labels, its numbers in the order of the columns, and faults that concern all of them."""

    labels: tuple[str, ...]
    numbers: tuple[Number, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one quantity of it.

    Attributes:
        name: its name in the paper.
        quantity: what its numbers are.
        heads: heads of the label columns.
        columns: heads of the number columns.
        rows: top to bottom.
        notes: faults of the paper's text about the table.
    """

    name: str
    quantity: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def place(self, row: Row, column: int) -> str:
        """The place of a number in the paper.

        >>> BIAS.place(BIAS.rows[0], 2)
        'table 4, L = 1, N = 12, δ τ=0.1'
        """
        where = [f"{head} = {label}" for head, label in zip(self.heads, row.labels, strict=True)]
        return ", ".join([self.name, *where, self.columns[column]])


_IW = {
    "binarized_mnist": (-87.34, -90.61, -80.52, -81.46, -79.39, -80.07),
    "caltech101_silhouettes": (-103.29, -107.77, -88.64, -94.60, -85.31, -90.84),
    "fashion_mnist": (-105.16, -111.49, -95.85, -100.09, -94.01, -95.31),
    "omniglot": (-100.38, -107.65, -95.55, -98.30, -94.19, -96.40),
}
"""Table 1: for L = 1, 2, 3 the discrete model, then the normal one."""
_KL = {
    "binarized_mnist": (26.46, 26.75, 24.95, 25.62, 25.58, 25.94),
    "caltech101_silhouettes": (35.37, 32.70, 36.17, 34.57, 35.84, 37.36),
    "fashion_mnist": (30.43, 28.81, 28.98, 28.29, 29.30, 29.72),
    "omniglot": (31.55, 26.37, 31.82, 31.14, 32.49, 32.68),
}
_BIAS = {
    1: ((-91.27, -93.35, 2.08), (-90.74, -93.59, 2.85), (-91.76, -94.87, 3.11), (-91.41, -94.65, 3.23)),
    2: ((-86.13, -87.44, 1.31), (-83.63, -85.22, 1.59), (-84.25, -85.99, 1.75), (-84.88, -86.73, 1.84)),
    3: ((-83.76, -85.13, 1.37), (-80.63, -82.71, 2.08), (-80.35, -83.09, 2.73), (-80.63, -83.48, 2.85)),
    4: ((-84.71, -86.03, 1.32), (-80.36, -82.26, 1.90), (-79.52, -81.88, 2.36), (-79.80, -82.34, 2.54)),
    5: ((-84.24, -85.87, 1.63), (-80.63, -82.72, 2.09), (-79.33, -81.56, 2.22), (-78.82, -81.27, 2.45)),
    6: ((-83.95, -85.54, 1.59), (-80.30, -82.14, 1.85), (-79.13, -81.27, 2.14), (-78.70, -81.60, 2.90)),
}
"""Table 4: for N = 12, 24, 48, 96 the surrogate, the ELBO and the bias, by L."""
_RUNTIME = {"normal": (0.25, 4723.0), "categorical": (0.25, 5245.0)}
"""Table 3: seconds per iteration, and megabytes on the GPU."""


def _table1(quantity: str, metric: str, printed: Mapping[str, tuple[float, ...]], notes: Sequence[str] = ()) -> Table:
    columns = tuple(f"{quantity.partition(' ')[0]} {latent}" for latent in ("discrete", "normal"))
    rows = []
    for data, values in printed.items():
        for i, depth in enumerate((1, 2, 3)):
            pair = zip(values[2 * i : 2 * i + 2], (f"table2-L{depth}", f"table2-L{depth}-normal"), strict=True)
            numbers = tuple(Number(value, metric, preset, data) for value, preset in pair)
            rows.append(Row((data, str(depth)), numbers))
    return Table("table 1", quantity, ("data", "L"), columns, tuple(rows), tuple(notes))


def _bias_row(depth: int, variables: int, values: tuple[float, float, float]) -> Row:
    surrogate, elbo, bias = values
    preset, data = f"table4-L{depth}-N{variables}", "binarized_mnist"
    rounded = (ROUNDED,) if round(100 * (surrogate - elbo)) != round(100 * bias) else ()
    numbers = (
        Number(surrogate, "surrogate_elbo@tau=0.1", preset, data),
        Number(elbo, "elbo", preset, data, (HEAD_ELBO,) if variables == 24 else ()),
        Number(bias, "relaxation_bias@tau=0.1", preset, data, ((HEAD_BIAS,) if variables == 48 else ()) + rounded),
    )
    faults = ((NAMED_98,) if variables == 96 else ()) + ((INDIVISIBLE,) if depth == 5 else ())
    return Row((str(depth), str(variables)), numbers, faults)


def _runtime_row(latent: str) -> Row:
    preset = "table3-normal" if latent == "normal" else "table3"
    values = zip(_RUNTIME[latent], ("seconds_per_step", "megabytes"), strict=True)
    return Row((latent,), tuple(Number(value, metric, preset, "binarized_mnist") for value, metric in values))


_LOWER = sum(kl[i] < kl[i + 1] for kl in _KL.values() for i in (0, 2, 4))

LIKELIHOOD = _table1("L₁₀₀₀ at τ = 0, test", "iw_elbo", _IW)
KL = _table1("KL at τ = 0, test", "kl", _KL, [LOWER_KL.format(lower=_LOWER)])
RUNTIME = Table(
    "table 3",
    "6 layers of 16 variables, K = 256, batches of 128",
    ("latent",),
    ("seconds / step", "MB"),
    tuple(_runtime_row(latent) for latent in _RUNTIME),
)
BIAS = Table(
    "table 4",
    "test",
    ("L", "N"),
    ("L₁ τ=0.1", "L₁ τ=0", "δ τ=0.1"),
    tuple(
        _bias_row(depth, variables, values)
        for depth in TABLE4_LAYERS
        for variables, values in zip(TABLE4_VARIABLES, _BIAS[depth], strict=True)
    ),
)
TABLES: dict[str, tuple[Table, ...]] = {"table1": (LIKELIHOOD, KL), "table3": (RUNTIME,), "table4": (BIAS,)}


def networks(tables: Sequence[Table]) -> dict[str, list[str]]:
    """Data set → the presets whose numbers the tables print for it, in the order of the presets.

    >>> networks([LIKELIHOOD])["omniglot"][:3]
    ['table2-L1', 'table2-L1-normal', 'table2-L2']
    """
    by_data: dict[str, set[str]] = {}
    for number in (number for table in tables for row in table.rows for number in row.numbers):
        by_data.setdefault(number.data, set()).add(number.preset)
    return {data: [name for name in presets() if name in wanted] for data, wanted in by_data.items()}
