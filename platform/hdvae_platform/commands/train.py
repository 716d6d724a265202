"""`hdvae train`: train one experiment, without a study."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae.evaluation.metrics import error_name
from hdvae_platform.commands.options import home_option, json_option, set_option
from hdvae_platform.display.text import table
from hdvae_platform.running.dry_run import describe_network
from hdvae_platform.running.live_display import printing
from hdvae_platform.running.single_run import train_one
from hdvae_platform.store.images import image_shape
from hdvae_platform.store.places import Places
from hdvae_platform.study.caveats import caveats_of_experiment
from hdvae_platform.study.file import load_study, preset_study
from hdvae_platform.study.study import Study


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.yaml", required=False)
@click.option("--preset", help="A network of the paper, e.g. table2-L3; replaces the network of FILE, if one is given.")
@set_option
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Seed of all random numbers."
)
@click.option("--dry-run", is_flag=True, help="Print layers, shapes, parameters and bytes; do not train.")
@home_option
@json_option
def train(
    file: Path | None,
    preset: str | None,
    overrides: tuple[str, ...],
    seed: int,
    dry_run: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Train the base experiment of a study file, or a preset of the paper; the same command resumes it."""
    study, places = _study(file, preset, overrides), Places.under(home)
    if dry_run:
        rows, totals = describe_network(study.experiment, image_shape(study.experiment, places.home))
        if as_json:
            click.echo(json.dumps(totals))
            return
        click.echo(table(["layer", "variables", "features", "parameters"], rows))
        weights = totals["bytes"] / 2**20
        click.echo(
            f"{totals['parameters']:,} parameters ({totals['memory_values']:,} of them memory values): "
            f"{weights:.1f} MiB, {3 * weights:.1f} MiB in a checkpoint"
        )
        return
    with printing(sys.stderr if as_json else sys.stdout, plain=as_json) as echo:
        for caveat in caveats_of_experiment(study.experiment):
            echo(f"! {caveat}")
        done = train_one(study.name, study.experiment, seed, places, echo)
    if as_json:
        document = {"run": done.run_id, "handle": done.run_id, "checkpoint": done.checkpoint, "step": done.last.step}
        click.echo(json.dumps({**document, "metrics": dict(done.last.metrics)}, indent=1))
        return
    click.echo(_metrics(done.last.metrics))
    click.echo(f"MLflow run {done.run_id}; checkpoint {done.checkpoint}")


def _metrics(metrics: Mapping[str, float]) -> str:
    """The metrics at the end of a run, with their standard errors over images beside them."""
    errors = {error_name(name): metrics[error_name(name)] for name in metrics if error_name(name) in metrics}
    rows = [
        [name, f"{value:.4g}", f"{errors[error_name(name)]:.2g}" if error_name(name) in errors else ""]
        for name, value in metrics.items()
        if "@" not in name and name not in errors
    ]
    return table(["metric", "value", "standard error over images"], rows)


def _study(file: Path | None, preset: str | None, overrides: tuple[str, ...]) -> Study:
    if file is None and preset is None:
        raise InputError("give a FILE.yaml or a --preset, e.g. --preset table2-L2")
    if preset is None:
        assert file is not None
        return load_study(file, overrides)
    return preset_study(preset, overrides, load_study(file) if file is not None else None)
