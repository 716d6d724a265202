"""`hdvae sample`: images drawn from a trained run."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.evaluation.evaluation import choose_images
from hdvae.evaluation.sampling import layer_resamples, prior_samples, reconstructions
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE
from hdvae.training.snapshot import Snapshot, trained_model
from hdvae_platform.commands.options import RUN_HELP, home_option, run_argument, to_stderr
from hdvae_platform.display.image_grid import grid_png
from hdvae_platform.store.images import load_data
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import write_atomically
from hdvae_platform.trained.loading import find_run, places_of

COLUMNS = 16
BASES = 4
"""Number of prior samples whose lower layers are resampled."""


@click.command(epilog=RUN_HELP)
@run_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE.png", help="The picture to write.")
@click.option(
    "--mode",
    default="prior",
    show_default=True,
    type=click.Choice(["prior", "reconstruct", "layers"]),
    help="Prior samples; validation images above reconstructions; or samples with lower layers resampled.",
)
@click.option("--count", default=64, show_default=True, type=click.IntRange(1, 4096), help="Number of images.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Seed of the noise.")
@home_option
def sample(run: str, out: Path, mode: str, count: int, seed: int, home: Path) -> None:
    """Draw samples, reconstructions or resampled layers of a trained RUN, at τ = 0."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: the picture is a PNG file: write --out {out.with_suffix('.png')}")
    places = places_of(run, home)
    found = find_run(run, places, to_stderr)
    if found.note is not None:
        click.echo(found.note, err=True)
    snapshot = found.load()
    images, legend = _draw(mode, snapshot, count, seed, places)
    try:
        write_atomically(out, grid_png(images, COLUMNS))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from None
    click.echo(f"{out}: {legend}")


def _draw(mode: str, snapshot: Snapshot, count: int, seed: int, places: Places) -> tuple[Tensor, str]:
    """The images, row by row, and a description of them."""
    model = trained_model(snapshot)
    if mode == "prior":
        return prior_samples(model, count, seed), f"{count} samples of the prior"
    if mode == "reconstruct":
        return _reconstruct(model, snapshot, count, seed, places)
    drawn = layer_resamples(model, BASES, COLUMNS - 1, seed)
    depth = drawn.shape[1]
    legend = (
        f"{BASES} samples of the prior, {depth} rows each: the sample, then {COLUMNS - 1} times "
        f"with z_1 resampled, down to the row with z_1 … z_{depth} resampled"
    )
    return drawn.flatten(0, 2), legend


def _reconstruct(model: HDVAE, snapshot: Snapshot, count: int, seed: int, places: Places) -> tuple[Tensor, str]:
    experiment = parse(Experiment, snapshot.values["experiment"], "checkpoint")
    dataset = load_data(experiment, places.home)
    chosen = choose_images(count, dataset.size("valid"))
    images = torch.from_numpy(dataset.images("valid")[chosen]).float()
    reconstructed = reconstructions(model, images, seed)
    rows = [
        _padded(part[first : first + COLUMNS])
        for first in range(0, len(images), COLUMNS)
        for part in (images, reconstructed)
    ]
    return torch.cat(rows), f"{len(images)} validation images of {dataset.name}, each row above its reconstructions"


def _padded(row: Tensor) -> Tensor:
    """A row, filled up with white to the number of columns."""
    return torch.cat([row, row.new_zeros(COLUMNS - len(row), *row.shape[1:])])
