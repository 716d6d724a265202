"""The paper's tables and figures again: their studies are run, or gone on with, and shown beside what is printed.

A study is judged on `valid` as any other. What is compared with the paper is measured afterwards, on test images, of
every run that is complete: nothing is chosen by it. It is kept in the run's artifacts and not measured twice.
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
from hdvae_platform.analysis.comparison import Interval, interval
from hdvae_platform.display.plotting import INTERVAL
from hdvae_platform.paper.budgets import BUDGETS, PUBLISHED, STUDIED, Budget, network, studies, timed_experiment
from hdvae_platform.paper.figures import Lines, bias_figure, samples_figure
from hdvae_platform.paper.printed import LIKELIHOOD, RUNTIME, TABLES, Table
from hdvae_platform.paper.step_cost import StepCost, measured_alone
from hdvae_platform.paper.tables import Found, Side, beside
from hdvae_platform.running.launch import Launch, run_study
from hdvae_platform.running.status import StudyStatus, study_status
from hdvae_platform.store import datasets
from hdvae_platform.store.images import load_data
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, connect
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.study import PRESET, Study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.trained.assessment import assess
from hdvae_platform.trained.loading import load_run

Echo = Callable[[str], None]
KEPT = "evaluation/test.json"
"""The artifact in which an evaluation on test images is kept."""
SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SAMPLES = 64
"""In a panel of figure 2."""
DEEP = "table2-L3"
"""The network of figure 2."""


@dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper, and ours.

    Attributes:
        target: which.
        budget: at what budget.
        captions: how ours were made; each stands with every table and figure.
        tables: side by side.
        files: figures by name.
        unfinished: whether runs are yet to be done: the study was stopped.
        failed: whether runs failed.
    """

    target: str
    budget: str
    captions: Sequence[str]
    tables: Sequence[Side] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    unfinished: bool = False
    failed: bool = False

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        head = {"target": self.target, "budget": self.budget, "captions": list(self.captions)}
        return {**head, "tables": [side.plain() for side in self.tables], "unfinished": self.unfinished}

    def text(self) -> str:
        """For a terminal."""
        return "\n\n".join([*(side.text() for side in self.tables), "\n".join(self.captions)])

    def markdown(self) -> str:
        """The same for a document."""
        return "\n\n".join([*(side.markdown() for side in self.tables), "\n".join(f"- {one}" for one in self.captions)])


def reproduce(target: str, budget: Budget, places: Places, echo: Echo, launch: Launch) -> Reproduction:
    """Run what a table or figure of the paper is made of, as far as it is not there, and set ours beside it.

    Args:
        target: of `budgets.TARGETS`.
        budget: how much of it, and how.
        places: where everything lives.
        echo: prints a line of progress.
        launch: where and how studies are run.

    Raises:
        InputError: a data set is not fetched, or what `run_study` and `assess` refuse.
        KeyboardInterrupt: passed on; the same call goes on.
    """
    if target == "table3":
        return _runtime(budget, echo)
    wanted = studies(target, budget)
    _get_data(wanted.values(), places)
    for study in wanted.values():
        echo(f"{study.name}: {study.claim}")
        run_study(study, places, echo, launch)
    states = {data: _status(study, places) for data, study in wanted.items()}
    captions = [*_captions(target, budget, wanted, places), *_mixed(states.values(), places)]
    sides: list[Side] = []
    files: dict[str, bytes] = {}
    if target == "figure2":
        files = _samples(wanted, states, places, captions)
    else:
        sides = _sides(target, wanted, states, budget, places, echo)
    if target == "figure1":
        files = bias_figure(_lines(sides[0], ours=True), _lines(sides[0], ours=False), " ".join(captions))
    unfinished = any(state.state != "finished" for state in states.values())
    failed = any(state.failed for state in states.values())
    return Reproduction(target, budget.name, captions, sides, files, unfinished, failed)


def _sides(
    target: str,
    wanted: Mapping[str, Study],
    states: Mapping[str, StudyStatus],
    budget: Budget,
    places: Places,
    echo: Echo,
) -> list[Side]:
    found = {
        (data, preset): one
        for data, study in wanted.items()
        for preset, one in _found(target, study, states[data], budget, places, echo).items()
    }
    return [beside(printed, found, _head(printed, budget)) for printed in TABLES[STUDIED[target]]]


def _head(printed: Table, budget: Budget) -> str:
    """Of our columns, where ours is the bound with another number of samples than the paper's.

    >>> _head(TABLES["table1"][0], BUDGETS["smoke"]), _head(TABLES["table1"][0], BUDGETS["full"])
    ('ours (L₁₀₀)', 'ours')
    """
    same = printed is not LIKELIHOOD or budget.samples == BUDGETS["full"].samples
    return "ours" if same else f"ours (L{str(budget.samples).translate(SUBSCRIPT)})"


def _get_data(wanted: Iterable[Study], places: Places) -> None:
    """See that the data sets are there; one that needs no download is made.

    Raises:
        InputError: some are not; names the command that gets them.
    """
    names = [name for study in wanted if (name := study.experiment.data.name) is not None]
    missing = [name for name in names if not parquet_path(places.home, name).exists()]
    away = [name for name in missing if name in PUBLISHED]
    if away:
        raise InputError(
            f"not fetched: {', '.join(away)}; get them with `hdvae data fetch {' '.join(away)} --home {places.home}`"
        )
    for name in missing:
        datasets.fetch(places.home, name)


def _status(study: Study, places: Places) -> StudyStatus:
    record = Records(connect(places.database)).study(study.name)
    assert record is not None
    return study_status(places, record)


def _mixed(states: Iterable[StudyStatus], places: Places) -> list[str]:
    """What must be said where several versions of the code made the runs."""
    ids = [
        row["run_id"] for state in states for row in state.trials if row["state"] == RunState.COMPLETE and row["run_id"]
    ]
    runs = [run for run in map(Client(places).get, ids) if run is not None] if ids else []
    return [f"{mark}: differences between cells may be of the code." for mark in mixed_code(runs)]


def _found(
    target: str, study: Study, state: StudyStatus, budget: Budget, places: Places, echo: Echo
) -> dict[str, Found]:
    """Preset → what was found on test images, over its complete runs."""
    client = Client(places)
    documents: dict[str, list[dict[str, Any]]] = {}
    found: dict[str, Found] = {}
    for row in state.trials:
        preset = row["params"][PRESET]
        if row["state"] == RunState.COMPLETE:
            document = _assessed(target, study, row, budget, places, client, echo)
            documents.setdefault(preset, []).append(document)
        elif row["state"] == RunState.FAIL:
            found[preset] = Found({}, instead="failed")
    return found | {preset: _joined(kept) for preset, kept in documents.items()}


def _assessed(
    target: str,
    study: Study,
    row: Mapping[str, Any],
    budget: Budget,
    places: Places,
    client: Client,
    echo: Echo,
) -> dict[str, Any]:
    """The evaluation of a run on test images: the one that is kept, if it is of these settings."""
    run, settings = row["run_id"], budget.settings(target)
    if run is None:
        raise InputError(f"MLflow has no record of trial {row['number']} of {study.name} yet: the same command again")
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
    kept: dict[str, Any] = json.loads(client.read_file(run, KEPT) or b"{}")
    if all(kept.get(name) == value for name, value in wanted.items()):
        return kept
    echo(f"{row['params'][PRESET]} seed {row['seed']}: {wanted['images']} test images")
    done = assess(run, "test", wanted["images"], settings, places)
    if done.unlogged is not None:
        echo(f"{done.unlogged}; this is not kept: it is measured again next time")
    return done.document()


def _joined(documents: Sequence[Mapping[str, Any]]) -> Found:
    """One run: intervals over its images. Several: over the runs. What is not finite in all of them is left out."""
    runs = tuple(document["run"] for document in documents)
    names = [name for name in documents[0]["metrics"] if all(one["metrics"][name] is not None for one in documents)]
    if len(documents) > 1:
        return Found({name: interval([one["metrics"][name] for one in documents]) for name in names}, runs)
    values, errors = documents[0]["metrics"], documents[0]["standard_errors"]
    return Found({name: _over_images(values[name], errors.get(name)) for name in names}, runs)


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
    lines += [f"Not the paper's own, which is {theirs}."] if network(experiment) != theirs else []
    lines.append(f"Data: {', '.join(data)}; τ = 0 unless said otherwise.")
    if target == "figure2":
        return [*lines, f"Studies: {', '.join(study.name for study in wanted.values())}."]
    settings = budget.settings(target)
    noise = f"{settings['draws']} draws for each image"
    noise += f", S = {settings['samples']} for L_S" if STUDIED[target] == "table1" else ""
    over = "the seeds" if len(budget.seeds) > 1 else "the test images of one run, without the chance of training"
    lines.append(f"Nats per image; {noise}; 95% intervals over {over}; the paper prints one run without intervals.")
    return [*lines, f"Studies: {', '.join(study.name for study in wanted.values())}."]


def _lines(side: Side, *, ours: bool) -> Lines:
    """Table 4 as the lines of figure 1, at the cells that were run; the paper prints no intervals."""
    lines: dict[str, dict[int, list[tuple[int, Interval]]]] = {}
    for row, cells in zip(side.paper.rows, side.rows, strict=True):
        depth, variables = (int(label) for label in row.labels)
        for cell in cells:
            if cell.ours is not None:
                name = cell.printed.metric.partition("@")[0]
                value = cell.ours if ours else Interval(cell.printed.value, None, None)
                lines.setdefault(name, {}).setdefault(depth, []).append((variables, value))
    return lines


def _samples(
    wanted: Mapping[str, Study], states: Mapping[str, StudyStatus], places: Places, captions: Sequence[str]
) -> dict[str, bytes]:
    """Figure 2: prior samples of the deepest models of table 1, under the names of the data that they learned from."""
    panels: dict[str, Tensor | None] = {}
    letters = iter("abcd")
    for data in ("binarized_mnist", "fashion_mnist"):
        used = load_data(wanted[data].experiment, places.home).name if data in wanted else data
        for preset, name in ((f"{DEEP}-normal", "Gaussian"), (DEEP, "discrete")):
            rows = states[data].trials if data in states else []
            row = next(
                (row for row in rows if row["params"][PRESET] == preset and row["state"] == RunState.COMPLETE), None
            )
            title = f"({next(letters)}) {name}, L = 3, {used}"
            panels[title] = None if row is None else _drawn(row, places)
    return samples_figure(panels, " ".join(captions))


def _drawn(row: Mapping[str, Any], places: Places) -> Tensor:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return prior_samples(trained_model(load_run(row["checkpoint"], places)).to(device), SAMPLES, row["seed"])


def _runtime(budget: Budget, echo: Echo) -> Reproduction:
    """Table 3, measured here and now."""
    costs: dict[str, StepCost] = {}
    for row in RUNTIME.rows:
        preset = row.numbers[0].preset
        echo(f"{preset}: {budget.timed} steps")
        costs[preset] = measured_alone(timed_experiment(preset, budget), budget.timed)
    found = {
        ("binarized_mnist", preset): Found(
            {"seconds_per_step": interval(cost.seconds), "megabytes": Interval(cost.megabytes, None, None)}
        )
        for preset, cost in costs.items()
    }
    cost = next(iter(costs.values()))
    experiment = timed_experiment("table3", budget)
    theirs = network(timed_experiment("table3", BUDGETS["full"]))
    captions = [
        f"Budget {budget.name}: {network(experiment)}; {budget.timed} steps are timed, on images that are noise.",
        *([f"Not the paper's network, which is {theirs}."] if network(experiment) != theirs else []),
        f"On this machine: {cost.device}, {cost.threads} CPU threads. Memory is the most that was held at a time"
        + (" by the process." if cost.device == "CPU" else " on the GPU.")
        + " The paper: a GPU of 2019. 95% intervals over steps.",
    ]
    return Reproduction("table3", budget.name, captions, [beside(RUNTIME, found)])
