"""`hdvae study check`: validate a study file, and estimate its cost."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hdvae.data.overlap import overlaps
from hdvae_platform.analysis.labels import expectation_in_words
from hdvae_platform.commands.options import home_option, json_option, set_option
from hdvae_platform.commands.study.options import file_argument
from hdvae_platform.display.text import counted, duration, table
from hdvae_platform.store.catalogue import check_name
from hdvae_platform.store.images import load_data
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.annealing import experiments_of
from hdvae_platform.study.caveats import caveats_of_study
from hdvae_platform.study.file import load_study
from hdvae_platform.study.resources import this_machine
from hdvae_platform.study.study import Study

if TYPE_CHECKING:
    from hdvae_platform.running.estimate import Estimate


@click.command()
@file_argument
@set_option
@home_option
@json_option
def check(file: Path, overrides: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Validate a study file; print its runs, the resources of each and their estimated time. Starts nothing."""
    study = load_study(file, overrides, check_name)
    places = Places.under(home)
    dataset = load_data(study.experiment, places.home)  # before the import of torch: a faulty file is reported at once
    from hdvae_platform.running.estimate import estimate
    from hdvae_platform.store.sources import sources_of

    done = 0.0
    if study.source is not None:
        sources = sources_of(study, experiments_of(study), Records(places.database), Storage(places.storage))
        done = statistics.fmean(source.step for source in sources.values())
    cost, shared = estimate(study, places, done), overlaps(dataset)
    caveats = caveats_of_study(study, dataset.size("valid"), this_machine())
    if as_json:
        click.echo(
            json.dumps({**cost.plain(), "caveats": caveats, "overlaps": [asdict(one) for one in shared]}, indent=1)
        )
    else:
        caveats += [f"images in two splits: {one}" for one in shared]
        click.echo("\n".join([*_lines(study, cost, done), *(f"! {caveat}" for caveat in caveats)]))


def _lines(study: Study, cost: Estimate, done: float) -> list[str]:
    """The estimate as lines of text."""
    lines = [f"{study.name}: {study.claim}", *(f"expected: {expectation_in_words(one)}" for one in study.expect)]
    if study.start_from is not None:
        lines.append(f"each seed goes on from its run of {study.start_from}, which has done {done:,.0f} steps")
    if cost.arms:
        lines.append(table(["settings", "parameters", "s / step"], cost.rows()))
    if study.search.method.name == "grid" and len(cost.arms) < cost.trials:
        lines.append(f"only the first {len(cost.arms)} of {cost.trials} trials are timed")
    lines.append(
        f"{_runs(study, cost)} of {study.experiment.training.steps} steps, {study.resources.concurrent} at a time, "
        f"each with {_resources(study)}"
    )
    if (asked := study.search.trials or 0) > cost.trials:
        only = counted(cost.trials, "distinct trial")
        lines.append(f"{asked} trials were asked for, but the space has only {only}: each is trained once")
    if cost.runs:
        lines.append(f"about {duration(cost.seconds)} on this machine, without evaluations")
    if study.search.hours is not None:
        lines.append(f"no trial starts later than {study.search.hours:g} hours after the first launch")
    return lines


def _runs(study: Study, cost: Estimate) -> str:
    if study.parameter_sets() is None:
        return "as many runs as the hours allow"
    confirming = study.confirmations(cost.trials)
    also = f", and {confirming} to confirm the best" if confirming else ""
    return f"{counted(cost.runs, 'run')} ({counted(cost.trials, 'trial')} × {counted(len(study.seeds), 'seed')}{also})"


def _resources(study: Study) -> str:
    """What each run takes."""
    resources = study.resources
    each = f"{resources.cpus_per_worker} CPU and {resources.gpus_per_worker:g} GPU"
    if not resources.uses_worker_group:
        return each
    elastic = resources.elastic
    several = f"{resources.workers}" if elastic is None else f"{elastic.least} to {elastic.most}"
    return f"{several} workers, each of them with {each}"
