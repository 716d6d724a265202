"""`hdvae evaluate`: every quantity of a trained run on a whole split, at as many temperatures as wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hdvae.evaluation.metrics import tau_label
from hdvae.experiment.experiment import LEAST_TAU
from hdvae_platform.commands.options import home_option, json_option, prepare_folder
from hdvae_platform.display.text import table
from hdvae_platform.store.storage import write_atomically
from hdvae_platform.trained.assessment import Assessment, assess
from hdvae_platform.trained.loading import places_of

SHOWN = (
    ("surrogate_elbo", "surrogate"),
    ("coupled_elbo", "coupled"),
    ("relaxation_bias_signed", "bias"),
    ("relaxation_bias_se", "se"),
    ("coupled_bias", "coupled bias"),
    ("jensen_bound", "Jensen"),
    ("lipschitz_bound_reads", "Lipschitz, reads"),
    ("lipschitz_bound", "Lipschitz"),
)
"""Metrics of the printed table, and their columns."""


class Temperatures(click.ParamType[tuple[float, ...]]):
    """Temperatures above 0, separated by commas."""

    name = "τ,τ,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        try:
            taus = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers, e.g. 0.05,0.1,0.3")
        if not all(LEAST_TAU <= tau < float("inf") for tau in taus):
            self.fail(f"a temperature must be at least {LEAST_TAU:g}")
        return tuple({tau_label(tau): tau for tau in taus}.values())


@click.command()
@click.argument("run")
@click.option("--split", default="test", show_default=True, type=click.Choice(["valid", "test"]), help="Which images.")
@click.option("--tau", default="0.1", show_default=True, type=Temperatures(), help="Temperatures of the relaxed chain.")
@click.option("--samples", default=1000, show_default=True, type=click.IntRange(min=1), help="S of iw_elbo.")
@click.option("--draws", default=10, show_default=True, type=click.IntRange(min=1), help="Noise draws for each image.")
@click.option("--images", type=click.IntRange(min=1), help="A fixed random subset of so many.  [default: all]")
@click.option(
    "--kappa",
    default="certified",
    show_default=True,
    type=click.Choice(["certified", "local"]),
    help="Proven Lipschitz constants, or the largest gradients found.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Also write table, values and figure here.")
@home_option
@json_option
def evaluate(
    run: str,
    split: str,
    tau: tuple[float, ...],
    samples: int,
    draws: int,
    images: int | None,
    kappa: str,
    out: Path | None,
    home: Path,
    as_json: bool,
) -> None:
    """Evaluate a trained RUN, an MLflow run id or a checkpoint folder: ELBOs, relaxation bias and its bounds.

    A run given by its MLflow id keeps what is found: values of each image as Parquet and the figure of the bias
    against the temperature as artifacts; and the metrics of the test images under `test/`, at the step of its
    checkpoint (those under `valid/` stay as training left them).
    """
    settings = {"tau": tau, "samples": samples, "draws": draws, "kappa": kappa}
    if out is not None:
        prepare_folder(out)
    done = assess(run, split, images, settings, places_of(run, home))
    if out is not None:
        _write(out, done)
    if done.unlogged is not None:
        click.echo(f"{done.unlogged}; this is not logged: the same command logs it later", err=True)
    if as_json:
        click.echo(json.dumps(done.document(), indent=1))
        return
    click.echo(_summary(done))
    if out is not None:
        click.echo(f"{out}: {', '.join(done.files)}")
    if done.unlogged is None:
        logged = f"logged to MLflow run {run}"
        click.echo(logged if done.logged else "not logged: RUN is a folder, not an MLflow run id")


def _write(out: Path, done: Assessment) -> None:
    for name, data in done.files.items():
        write_atomically(out / name, data)


def _summary(done: Assessment) -> str:
    metrics = done.metrics
    head = f"{done.images} {done.split} images of {done.dataset}, step {done.step}; nats per image"
    bounds = f"elbo {metrics['elbo']:.2f}   iw_elbo@S={done.samples} {metrics['iw_elbo']:.2f}   kl {metrics['kl']:.2f}"
    rows = [
        [f"{tau:g}", *(_number(metrics.get(f"{name}@tau={tau:g}")) for name, _ in SHOWN)] for tau in done.temperatures
    ]
    parts = [head, "", bounds, "", table(["τ", *(column for _, column in SHOWN)], rows)]
    if done.kappa:
        parts += ["", f"Lipschitz bounds: {done.grade}.", _kappa(done)]
    return "\n".join(parts)


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _kappa(done: Assessment) -> str:
    """The constants, and their factors from the dearest on."""
    constants = table(["κ for any image", "certified"], [[name, _number(value)] for name, value in done.kappa.items()])
    dearest = sorted(done.parts, key=lambda part: -part[1])
    factors = table(["factor of κ", "at most"], [[name, _number(value)] for name, value in dearest])
    return f"{constants}\n\n{factors}"
