"""Reproduces tables and figures of the paper: runs their studies, or continues them, and shows ours beside the paper's.

The studies use the validation split, as any other. The numbers beside the paper's are measured afterwards on test
images, for every complete run, so that nothing is chosen by them. They are stored among the run's artifacts and
measured only once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hdvae.data.parquet import parquet_path
from hdvae.errors import InputError
from hdvae.evaluation.sampling import prior_samples
from hdvae.training.snapshot import trained_model
from hdvae_platform.analysis.caveats import mixed_code
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.display.plotting import INTERVAL
from hdvae_platform.paper.budgets import BUDGETS, PUBLISHED, STUDIED, Budget, network, studies, timed_experiment
from hdvae_platform.paper.figures import Lines, bias_figure, samples_figure
from hdvae_platform.paper.printed import LIKELIHOOD, RUNTIME, TABLES, Table
from hdvae_platform.paper.step_cost import StepCost, measured_alone
from hdvae_platform.paper.tables import Result, SideBySide, side_by_side
from hdvae_platform.running.launch import Launch, run_study
from hdvae_platform.running.status import StudyStatus, study_status
from hdvae_platform.store import datasets
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import handle
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.space import PRESET
from hdvae_platform.study.study import Study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import EVALUATION
from hdvae_platform.trained.assessment import assess
from hdvae_platform.trained.loading import find_run, load_run

Echo = Callable[[str], None]
_Evaluation = tuple[str, Mapping[str, Any]]
"""The handle of a run, and its evaluation on test images."""
EVALUATION_FILE = f"{EVALUATION}/test.json"
"""The artifact with a run's evaluation on test images."""
SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
PANEL_SAMPLES = 64
"""Samples in a panel of figure 2."""
FIGURE2_NETWORK = "table2-L3"
"""The preset of the discrete network in figure 2."""


@dataclass(frozen=True)
class Reproduction:
    """A reproduced table or figure of the paper.

    Attributes:
        target: name of the table or figure.
        budget: name of the budget.
        captions: how our numbers were made; they belong to every table and figure.
        tables: the paper's tables with our numbers.
        files: figures by file name.
        unfinished: whether runs have not ended because a study was stopped.
        failed: whether runs failed.
    """

    target: str
    budget: str
    captions: Sequence[str]
    tables: Sequence[SideBySide] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    unfinished: bool = False
    failed: bool = False

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        head = {"target": self.target, "budget": self.budget, "captions": list(self.captions)}
        return {**head, "tables": [table.plain() for table in self.tables], "unfinished": self.unfinished}

    def text(self) -> str:
        """The tables and captions for a terminal."""
        return "\n\n".join([*(table.text() for table in self.tables), "\n".join(self.captions)])

    def markdown(self) -> str:
        """The tables and captions as Markdown."""
        return "\n\n".join(
            [*(table.markdown() for table in self.tables), "\n".join(f"- {caption}" for caption in self.captions)]
        )


def reproduce(target: str, budget: Budget, places: Places, echo: Echo, launch: Launch) -> Reproduction:
    """Reproduce a table or figure of the paper; what is complete already is not run again.

    Args:
        target: one of `budgets.TARGETS`.
        budget: how much of it to run.
        places: where studies, data and results are stored.
        echo: prints a line of progress.
        launch: where and how the studies are run.

    Raises:
        InputError: a data set is missing, or `run_study` or `assess` refuses its input.
        KeyboardInterrupt: passed on; calling again continues.
    """
    if target == "table3":
        return _step_cost(budget, echo)
    wanted = studies(target, budget)
    _fetch_data(wanted.values(), places)
    for study in wanted.values():
        echo(f"{study.name}: {study.claim}")
        run_study(study, places, echo, launch)
    states = {data: _status(study, places) for data, study in wanted.items()}
    captions = [*_captions(target, budget, wanted, places), *_mixed_code(states.values(), places)]
    tables: list[SideBySide] = []
    files: dict[str, bytes] = {}
    if target == "figure2":
        files = _figure2(wanted, states, places, captions)
    else:
        tables = _tables(target, wanted, states, budget, places, echo)
    if target == "figure1":
        files = bias_figure(_lines(tables[0], ours=True), _lines(tables[0], ours=False), " ".join(captions))
    unfinished = any(state.state != "finished" for state in states.values())
    failed = any(state.failed for state in states.values())
    return Reproduction(target, budget.name, captions, tables, files, unfinished, failed)


def _tables(
    target: str,
    wanted: Mapping[str, Study],
    states: Mapping[str, StudyStatus],
    budget: Budget,
    places: Places,
    echo: Echo,
) -> list[SideBySide]:
    results = {
        (data, preset): result
        for data, study in wanted.items()
        for preset, result in _results(target, study, states[data], budget, places, echo).items()
    }
    return [side_by_side(printed, results, _column_head(printed, budget)) for printed in TABLES[STUDIED[target]]]


def _column_head(printed: Table, budget: Budget) -> str:
    """The head of our columns, which names the bound if it has another number of samples than the paper's.

    >>> _column_head(TABLES["table1"][0], BUDGETS["smoke"]), _column_head(TABLES["table1"][0], BUDGETS["full"])
    ('ours (L₁₀₀)', 'ours')
    """
    same = printed is not LIKELIHOOD or budget.samples == BUDGETS["full"].samples
    return "ours" if same else f"ours (L{str(budget.samples).translate(SUBSCRIPT)})"


def _fetch_data(wanted: Iterable[Study], places: Places) -> None:
    """Make the data sets that need no download, and check that the others are there.

    Raises:
        InputError: a data set must be downloaded first; the message names the command.
    """
    names = [name for study in wanted if (name := study.experiment.data.name) is not None]
    missing = [name for name in names if not parquet_path(places.home, name).exists()]
    to_download = [name for name in missing if name in PUBLISHED]
    if to_download:
        raise InputError(
            f"missing data: {', '.join(to_download)}; "
            f"download with `hdvae data fetch {' '.join(to_download)} --home {places.home}`"
        )
    for name in missing:
        datasets.fetch(places.home, name)


def _status(study: Study, places: Places) -> StudyStatus:
    record = Records(places.database).study(study.name)
    assert record is not None
    return study_status(places, record)


def _mixed_code(states: Iterable[StudyStatus], places: Places) -> list[str]:
    """The caption where several versions of the code trained the runs."""
    ids = [
        row["run_id"] for state in states for row in state.trials if row["state"] == RunState.COMPLETE and row["run_id"]
    ]
    runs = [run for run in map(Client(places).get, ids) if run is not None] if ids else []
    return [f"{caveat}; differences between cells may come from the code." for caveat in mixed_code(runs)]


def _results(
    target: str, study: Study, state: StudyStatus, budget: Budget, places: Places, echo: Echo
) -> dict[str, Result]:
    """Preset → the result of its complete runs on test images."""
    client = Client(places)
    evaluations: dict[str, list[_Evaluation]] = {}
    failed: dict[str, Result] = {}
    for row in state.trials:
        preset = row["params"][PRESET]
        if row["state"] == RunState.COMPLETE:
            name = handle(study.name, row["number"], row["seed"])
            document = _evaluated(target, study, row, name, budget, places, client, echo)
            evaluations.setdefault(preset, []).append((name, document))
        elif row["state"] == RunState.FAIL:
            failed[preset] = Result({}, instead="failed")
    return failed | {preset: _joined(same) for preset, same in evaluations.items()}


def _evaluated(
    target: str,
    study: Study,
    row: Mapping[str, Any],
    name: str,
    budget: Budget,
    places: Places,
    client: Client,
    echo: Echo,
) -> dict[str, Any]:
    """The evaluation of a run on test images: the stored one if its settings are the same, else a new one.

    Args:
        target: the table or figure.
        study: the study of the run.
        row: the run, as a row of the study's status.
        name: the handle of the run.
        budget: how to evaluate.
        places: where everything is stored.
        client: connection to MLflow.
        echo: prints a line of progress.
    """
    run, settings = row["run_id"], budget.settings(target)
    if run is None:
        raise InputError(f"MLflow does not have run {name} yet: give the same command again")
    available = load_data(study.experiment, places.home).size("test")
    wanted = {
        "step": row["step"],
        "images": min(budget.images or available, available),
        "samples": settings["samples"],
        "draws": settings["draws"],
        "tau": list(settings["tau"]),
        "grade": settings["kappa"],
        "sources": provenance.code()["sources"],
    }
    stored: dict[str, Any] = json.loads(client.read_file(run, EVALUATION_FILE) or b"{}")
    if all(stored.get(key) == value for key, value in wanted.items()):
        return stored
    echo(f"{name} ({row['params'][PRESET]}): evaluation on {wanted['images']} test images")
    done = assess(find_run(run, places), "test", wanted["images"], settings, places)
    if done.unlogged is not None:
        echo(f"{done.unlogged}; the evaluation is not stored and will be repeated next time")
    return done.document()


def _joined(evaluations: Sequence[_Evaluation]) -> Result:
    """The result of one network: intervals over the runs, or for a single run over its images.

    Metrics that are not finite in some run are left out.
    """
    handles = tuple(name for name, _ in evaluations)
    documents = [document for _, document in evaluations]
    run_ids = tuple(document["run"] for document in documents)
    metrics = [name for name in documents[0]["metrics"] if all(one["metrics"][name] is not None for one in documents)]
    if len(documents) > 1:
        values = {name: interval([one["metrics"][name] for one in documents]) for name in metrics}
    else:
        means, errors = documents[0]["metrics"], documents[0]["standard_errors"]
        values = {name: _over_images(means[name], errors.get(name)) for name in metrics}
    return Result(values, run_ids, handles)


def _over_images(value: float, error: float | None) -> Interval:
    if error is None:
        return Interval(value, None, None)
    return Interval(value, value - INTERVAL * error, value + INTERVAL * error)


def _captions(target: str, budget: Budget, wanted: Mapping[str, Study], places: Places) -> list[str]:
    experiment = next(iter(wanted.values())).experiment
    data = []
    for printed, study in wanted.items():
        used = load_data(study.experiment, places.home)
        images = min(budget.images or used.size("test"), used.size("test"))
        data.append(f"{used.name}{' for ' + printed if used.name != printed else ''} ({images} test images)")
    theirs = network(next(iter(studies(target, BUDGETS["full"]).values())).experiment)
    lines = [f"Budget {budget.name} ({budget.cost}): {network(experiment)}, seeds {list(budget.seeds)}."]
    lines += [f"The paper's settings are different: {theirs}."] if network(experiment) != theirs else []
    lines.append(f"Data: {', '.join(data)}; τ = 0 unless a column says otherwise.")
    if target == "figure2":
        return [*lines, f"Studies: {', '.join(study.name for study in wanted.values())}."]
    settings = budget.settings(target)
    noise = f"{settings['draws']} draws for each image"
    noise += f", S = {settings['samples']} for L_S" if STUDIED[target] == "table1" else ""
    one_run = "the test images of one run, which leaves out the variation between trainings"
    over = "the seeds" if len(budget.seeds) > 1 else one_run
    lines.append(f"Nats per image; {noise}; 95% intervals over {over}; the paper prints one run without intervals.")
    return [*lines, f"Studies: {', '.join(study.name for study in wanted.values())}."]


def _lines(table: SideBySide, *, ours: bool) -> Lines:
    """The lines of figure 1 from table 4, for the cells that were run; the paper prints no intervals."""
    lines: dict[str, dict[int, list[tuple[int, Interval]]]] = {}
    for row, cells in zip(table.paper.rows, table.rows, strict=True):
        depth, variables = (int(label) for label in row.labels)
        for cell in cells:
            if cell.ours is not None:
                name = cell.printed.metric.partition("@")[0]
                value = cell.ours if ours else Interval(cell.printed.value, None, None)
                lines.setdefault(name, {}).setdefault(depth, []).append((variables, value))
    return lines


def _figure2(
    wanted: Mapping[str, Study], states: Mapping[str, StudyStatus], places: Places, captions: Sequence[str]
) -> dict[str, bytes]:
    """Figure 2: prior samples of the deepest models of table 1, titled with the data that they were trained on."""
    panels: dict[str, Tensor | None] = {}
    letters = iter("abcd")
    for data in ("binarized_mnist", "fashion_mnist"):
        used = load_data(wanted[data].experiment, places.home).name if data in wanted else data
        for preset, name in ((f"{FIGURE2_NETWORK}-normal", "Gaussian"), (FIGURE2_NETWORK, "discrete")):
            rows = states[data].trials if data in states else []
            row = next(
                (row for row in rows if row["params"][PRESET] == preset and row["state"] == RunState.COMPLETE), None
            )
            title = f"({next(letters)}) {name}, L = 3, {used}"
            panels[title] = None if row is None else _samples_of(row, places)
    return samples_figure(panels, " ".join(captions))


def _samples_of(row: Mapping[str, Any], places: Places) -> Tensor:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return prior_samples(trained_model(load_run(row["checkpoint"], places)).to(device), PANEL_SAMPLES, row["seed"])


def _step_cost(budget: Budget, echo: Echo) -> Reproduction:
    """Table 3, measured on this machine."""
    costs: dict[str, StepCost] = {}
    for row in RUNTIME.rows:
        preset = row.numbers[0].preset
        echo(f"{preset}: timing {budget.timed} steps")
        costs[preset] = measured_alone(timed_experiment(preset, budget), budget.timed)
    results = {
        ("binarized_mnist", preset): Result(
            {"seconds_per_step": interval(cost.seconds), "megabytes": Interval(cost.megabytes, None, None)}
        )
        for preset, cost in costs.items()
    }
    cost = next(iter(costs.values()))
    experiment = timed_experiment("table3", budget)
    theirs = network(timed_experiment("table3", BUDGETS["full"]))
    captions = [
        f"Budget {budget.name}: {network(experiment)}; {budget.timed} steps are timed, on random images.",
        *([f"The paper's settings are different: {theirs}."] if network(experiment) != theirs else []),
        f"On this machine: {cost.device}, {cost.threads} CPU threads. Memory is the peak"
        + (" of the process." if cost.device == "CPU" else " on the GPU.")
        + " The paper used a GPU of 2019. 95% intervals over steps.",
    ]
    return Reproduction("table3", budget.name, captions, [side_by_side(RUNTIME, results)])
