"""Budgets of reproductions of the paper, and the studies that make up a table or figure at a budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hdvae.config import parse
from hdvae.errors import InputError, nearest
from hdvae.experiment import presets
from hdvae.experiment.experiment import Experiment
from hdvae_platform.display.text import brief
from hdvae_platform.paper.printed import TABLES, networks
from hdvae_platform.study.space import PRESET
from hdvae_platform.study.study import Study

STUDIED = {"table1": "table1", "table4": "table4", "figure1": "table4", "figure2": "table1"}
"""The table whose studies a target needs: figure 1 is drawn from table 4, figure 2 from the models of table 1."""
TARGETS = (*sorted(STUDIED), "table3")
CLAIMS = {
    "table1": "With few latent variables a discrete hierarchy has a better test log-likelihood than a Gaussian one, "
    "and up to three layers improve it.",
    "table4": "At each depth the relaxation bias at τ = 0.1 grows with the number of latent variables.",
}
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "table1": [
        {"metric": "valid/iw_elbo", "higher": {PRESET: f"table2-L{depth}"}, "than": {PRESET: f"table2-L{depth}-normal"}}
        for depth in (1, 2, 3)
    ],
    "table4": [{"metric": "valid/relaxation_bias", "grows_with": "model.layers.*.variables"}],
}
"""The expectations that follow from the claims."""
TAU = 0.1
"""Temperature at which bias and surrogate are evaluated."""


@dataclass(frozen=True)
class Budget:
    """How much of the paper is run, and with which settings.

    Attributes:
        name: name of the budget.
        cost: what it costs, in words.
        experiment: settings that replace those of the paper's experiment.
        data: data set of the paper → the `data` section to use for it; data sets that are missing here are not run.
        cells: regular expression of the presets to run.
        seeds: seeds of each cell.
        resources: the `resources` section of the studies.
        images: size of the fixed random subset of the test split; None for all images.
        draws: draws of the noise for each test image.
        samples: S of the importance-weighted bound in table 1; table 4 uses one sample.
        timed: number of timed steps for table 3, after one step that is not timed.
        runtime: settings that replace those of the paper's experiment for table 3.
    """

    name: str
    cost: str
    experiment: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    cells: str = ".*"
    seeds: tuple[int, ...] = (0,)
    resources: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None
    draws: int = 10
    samples: int = 1000
    timed: int = 20
    runtime: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, preset: str) -> bool:
        """Whether a network is run at this budget."""
        return re.fullmatch(self.cells, preset) is not None

    def settings(self, target: str) -> dict[str, Any]:
        """The settings of the evaluation on test images."""
        samples = self.samples if STUDIED[target] == "table1" else 1
        return {"tau": (TAU,), "samples": samples, "draws": self.draws, "kappa": "certified"}


def _falling(steps: int) -> list[list[float]]:
    """The paper's temperature schedule 0.8 → 0.3 → 0.1, over another number of steps."""
    return [[0, 0.8], [steps // 2, 0.3], [steps, 0.1]]


def _small(width: int, steps: int, **evaluation: Any) -> dict[str, Any]:
    return {
        "model": {"blocks": "dense", "width": width, "depth": 1, "dropout": 0.1},
        "training": {"steps": steps, "temperature": _falling(steps), "learning_rate": 4e-3},
        "evaluation": {"tau": [TAU], **evaluation},
    }


PUBLISHED = ("binarized_mnist", "caltech101_silhouettes", "fashion_mnist", "omniglot")
_PAPER_DATA = {name: {"name": name} for name in PUBLISHED}

BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            "smoke",
            "some minutes on two cores, no download: shows only that everything works",
            _small(128, 500, every=100, images=200, draws=5, samples=10),
            {"binarized_mnist": {"name": "mnist5k"}},
            cells="table2-.*|table4-L[12]-N(12|24|48)",
            resources={"concurrent": 2},
            samples=100,
            timed=5,
            runtime=_small(128, 500),
        ),
        Budget(
            "cpu",
            "at most three hours on two cores: reduced network and steps",
            _small(128, 6000, every=1000, images=500, draws=5, samples=10),
            _PAPER_DATA,
            resources={"concurrent": 2},
            images=1000,
            timed=3,
        ),
        Budget(
            "full",
            "the paper's networks and data, a GPU for each run: days",
            {
                "training": {"steps": 1_000_000, "patience": 100},
                "evaluation": {"tau": [TAU], "every": 1000, "images": 1000, "draws": 10, "samples": 100},
            },
            _PAPER_DATA,
            resources={"concurrent": 64, "gpus_per_worker": 1},
        ),
    )
}


def budget_named(name: str) -> Budget:
    """The budget of this name.

    Raises:
        InputError: there is no such budget; the message names the nearest one.
    """
    if name not in BUDGETS:
        raise InputError(f"no budget {name}{nearest(name, BUDGETS)}")
    return BUDGETS[name]


def studies(target: str, budget: Budget) -> dict[str, Study]:
    """The studies behind a table or figure: data set of the paper → the study on it."""
    table = STUDIED[target]
    wanted = networks(TABLES[table])
    if target == "figure2":
        wanted = {data: wanted[data] for data in ("binarized_mnist", "fashion_mnist")}
    cells = {data: list(filter(budget.runs, names)) for data, names in wanted.items() if data in budget.data}
    return {data: _study(table, data, names, budget, several=len(wanted) > 1) for data, names in cells.items()}


def _study(table: str, data: str, cells: list[str], budget: Budget, *, several: bool) -> Study:
    name = "-".join(["paper", table, *([data] if several else []), budget.name])
    experiment = presets.merged(presets.PAPER, budget.experiment)
    plain = {
        "name": name,
        "claim": CLAIMS[table],
        "expect": EXPECTED[table],
        "experiment": {**experiment, "data": dict(budget.data[data])},
        "space": {PRESET: {"choices": cells}},
        "seeds": list(budget.seeds),
        "resources": dict(budget.resources),
    }
    return parse(Study, plain, name)


def timed_experiment(preset: str, budget: Budget) -> Experiment:
    """The experiment whose steps are timed for a network of table 3."""
    plain = presets.merged(presets.merged(presets.PAPER, budget.runtime), presets.preset(preset))
    return parse(Experiment, plain, preset)


def network(experiment: Experiment) -> str:
    """The network, training length and optimisation of an experiment in words, for captions.

    >>> network(timed_experiment("table3", BUDGETS["smoke"])).partition("; ")[2]
    '500 steps of 128 images, learning rate 0.004, τ 0.8→0.3→0.1'
    """
    model, training = experiment.model, experiment.training
    blocks = f"{model.wiring} of {model.blocks} blocks, width {model.width}, depth {model.depth}"
    temperature = training.temperature
    points = "→".join(f"{tau:g}" for _, tau in temperature) if isinstance(temperature, tuple) else str(temperature)
    rate = f"learning rate {brief(training.learning_rate)}"
    until = f"{training.steps:,} steps"
    if training.patience is not None:
        patience = training.patience * experiment.evaluation.every
        until = f"until {patience:,} steps without a better ELBO, at most {until}"
    return f"{blocks}, dropout {model.dropout:g}; {until} of {training.batch_size} images, {rate}, τ {points}"
