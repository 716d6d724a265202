"""`hdvae evaluate`: all metrics of a trained run on a whole split, at any temperatures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hdvae.evaluation.metrics import at_samples, sample_counts, tau_label
from hdvae.experiment.experiment import LEAST_TAU
from hdvae_platform.commands.options import RUN_HELP, home_option, json_option, prepare_folder, run_argument, to_stderr
from hdvae_platform.display.text import table
from hdvae_platform.running.live_display import printing
from hdvae_platform.running.progress import EvaluationProgress
from hdvae_platform.store.storage import write_atomically
from hdvae_platform.trained.assessment import Assessment, assess
from hdvae_platform.trained.loading import find_run, places_of

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
"""Metrics of the printed table, and their column headings."""


class Temperatures(click.ParamType[tuple[float, ...]]):
    """Temperatures above 0, separated by commas."""

    name = "τ,τ,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse temperatures.

        Raises:
            BadParameter: the text is no list of numbers, or one of them is too small.
        """
        if isinstance(value, tuple):
            return value
        try:
            taus = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers, e.g. 0.05,0.1,0.3")
        if not all(LEAST_TAU <= tau < float("inf") for tau in taus):
            self.fail(f"a temperature must be at least {LEAST_TAU:g}")
        return tuple({tau_label(tau): tau for tau in taus}.values())


@click.command(epilog=RUN_HELP)
@run_argument
@click.option("--split", default="test", show_default=True, type=click.Choice(["valid", "test"]), help="The split.")
@click.option(
    "--tau",
    default="0.1",
    show_default=True,
    type=Temperatures(),
    metavar="τ,τ,…",
    help="Temperatures of the relaxed chain.",
)
@click.option("--samples", default=1000, show_default=True, type=click.IntRange(1, 10**9), help="Samples S of iw_elbo.")
@click.option("--draws", default=10, show_default=True, type=click.IntRange(1, 10**9), help="Noise draws per image.")
@click.option("--images", type=click.IntRange(min=1), help="Size of a fixed random subset.  [default: all images]")
@click.option(
    "--kappa",
    default="certified",
    show_default=True,
    type=click.Choice(["certified", "local"]),
    help="Certified Lipschitz constants, or the largest gradients observed.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Processes that share the images, each with its part of the cores, or a GPU.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Also write all results to this folder.")
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
    workers: int,
    out: Path | None,
    home: Path,
    as_json: bool,
) -> None:
    """Evaluate a trained RUN: ELBOs, relaxation bias and its bounds.

    The results are logged to the run in MLflow, unless RUN is a folder: per-image values as Parquet, the figure of the
    bias against the temperature, and the metrics of test images under `test/`, at the step of the checkpoint. The
    metrics under `valid/` stay as training logged them. After an interruption the same command goes on where it was.
    """
    settings = {"tau": tau, "samples": samples, "draws": draws, "kappa": kappa}
    if out is not None:
        prepare_folder(out)
    places = places_of(run, home)
    found = find_run(run, places, to_stderr)
    if found.note is not None:
        click.echo(found.note, err=True)
    with printing(sys.stderr) as echo:
        progress = EvaluationProgress(found.handle or "evaluation", echo)
        done = assess(found, split, images, settings, places, progress, workers)
    if out is not None:
        _write(out, done)
    if done.unkept:
        click.echo(f"an interruption would have begun anew: {done.unkept}", err=True)
    if done.unlogged is not None:
        click.echo(f"{done.unlogged}; the results are not logged: run the same command again to log them", err=True)
    if as_json:
        click.echo(json.dumps(done.document(), indent=1))
        return
    click.echo(_summary(done))
    if out is not None:
        click.echo(f"{out}: {', '.join(done.files)}")
    if done.unlogged is None:
        logged = f"logged to run {done.handle} in MLflow"
        click.echo(logged if done.logged else "not logged: RUN is a folder, or MLflow has no record of the run")


def _write(out: Path, done: Assessment) -> None:
    for name, data in done.files.items():
        write_atomically(out / name, data)


def _summary(done: Assessment) -> str:
    metrics = done.metrics
    head = f"{done.images} {done.split} images of {done.dataset}, step {done.step}; nats per image"
    bounds = "   ".join(
        f"{label} {_with_error(done, name)}"
        for name, label in (("elbo", "elbo"), ("iw_elbo", f"iw_elbo@S={done.samples}"), ("kl", "kl"))
    )
    rows = [
        [f"{tau:g}", *(_number(metrics.get(f"{name}@tau={tau:g}")) for name, _ in SHOWN)] for tau in done.temperatures
    ]
    bounds += "   (± one standard error over images)" if done.images > 1 else ""
    parts = [head, "", bounds, _convergence(done), "", table(["τ", *(column for _, column in SHOWN)], rows)]
    if done.kappa:
        parts += ["", f"Lipschitz bounds: {done.grade}.", _kappa(done)]
    return "\n".join(parts)


def _convergence(done: Assessment) -> str:
    """L_S for each number of samples."""
    known = [(count, done.metrics[at_samples("iw_elbo", count)]) for count in sample_counts(done.samples)]
    return "iw_elbo for S = " + ", ".join(f"{count}: {value:.2f}" for count, value in known)


def _with_error(done: Assessment, name: str) -> str:
    """A metric ± its standard error over images, which a single image does not have."""
    return f"{done.metrics[name]:.2f}" + (f" ± {done.errors[name]:.2f}" if name in done.errors else "")


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _kappa(done: Assessment) -> str:
    """The constants, and their factors, the largest first."""
    constants = table(["κ for any image", "certified"], [[name, _number(value)] for name, value in done.kappa.items()])
    largest = sorted(done.parts, key=lambda part: -part[1])
    factors = table(["factor of κ", "at most"], [[name, _number(value)] for name, value in largest])
    return f"{constants}\n\n{factors}"
