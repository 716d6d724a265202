"""Evaluation of a trained run on a split, and the files and records that are kept of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hdvae.bounds.lipschitz import certify
from hdvae.config import parse
from hdvae.evaluation.evaluation import Evaluation, choose_images, standard_error
from hdvae.evaluation.metrics import at, at_samples, nested, tau_label
from hdvae.experiment.experiment import EvaluationConfig, Experiment
from hdvae.network.model import HDVAE, evaluating
from hdvae.training.snapshot import trained_model
from hdvae_platform.store.images import load_data
from hdvae_platform.store.journal import Entry
from hdvae_platform.store.per_image import as_parquet
from hdvae_platform.store.places import Places
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.tracking.names import EVALUATION, Tag
from hdvae_platform.trained.figures import bias_curve, convergence_curve
from hdvae_platform.trained.loading import FoundRun
from hdvae_platform.trained.sharing import Job, Progress, device_of, evaluate_with
from hdvae_platform.trained.unfinished import Unfinished, digest_of


@dataclass(frozen=True)
class Assessment:
    """The results of an evaluation.

    Attributes:
        run: the name by which it was asked for.
        handle: `STUDY/TRIAL/SEED`, or MLflow's id of a run outside a study; None if it was found by an address.
        run_id: of the run in MLflow; None if there is none to log to.
        dataset: the data set.
        split: `valid` or `test`.
        images: the number of images.
        step: of the checkpoint.
        samples: S of `iw_elbo`.
        draws: M, the number of noise draws for each image.
        temperatures: τ of the relaxed chains.
        grade: `certified` or `local`, of the κ in the Lipschitz bounds.
        metrics: name without the split → value, in nats per image.
        errors: name → standard error of the mean over images, of some metrics.
        kappa: name → certified constant for any image; empty for normal variables.
        parts: the factors of these constants.
        files: name → content of the files to keep.
        logged: whether MLflow has the results.
        unlogged: why MLflow could not be reached; None if it was.
        unkept: why an interruption would have lost what was done; empty if it would not.
    """

    run: str
    handle: str | None
    run_id: str | None
    dataset: str
    split: str
    images: int
    step: int
    samples: int
    draws: int
    temperatures: Sequence[float]
    grade: str
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    kappa: Mapping[str, float]
    parts: Sequence[tuple[str, float]]
    files: Mapping[str, bytes] = field(default_factory=dict)
    logged: bool = False
    unlogged: str | None = None
    unkept: str = ""

    def document(self) -> dict[str, Any]:
        """The result as JSON-like values."""
        return {
            "run": self.run,
            "handle": self.handle,
            "split": self.split,
            "images": self.images,
            "step": self.step,
            "samples": self.samples,
            "draws": self.draws,
            "tau": list(self.temperatures),
            "grade": self.grade,
            "sources": provenance.code()["sources"],
            "metrics": _finite(self.metrics),
            "standard_errors": _finite(self.errors),
            "kappa": _finite(self.kappa),
            "kappa_parts": _finite(dict(self.parts)),
        }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Values with None for infinity and NaN, which JSON lacks; κ of a badly scaled network may be infinite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def assess(
    run: FoundRun,
    split: str,
    images: int | None,
    settings: Mapping[str, Any],
    places: Places,
    progress: Progress = lambda done, total: None,
    workers: int = 1,
) -> Assessment:
    """Evaluate a run, and log the results to the run if MLflow has it.

    What is done is kept in the home folder until the end: after an interruption, the same call goes on from there.

    Args:
        run: from `find_run`.
        split: `valid` or `test`.
        images: the size of a fixed random subset; None for all images.
        settings: of `EvaluationConfig`.
        places: the addresses of data and MLflow.
        progress: is called with the number of images that are done, and of all, after each chunk of them.
        workers: the number of processes that share the images.

    Raises:
        InputError: the run has no readable checkpoint, or its data are not there.
        BoundViolated: a measured quantity is above a certified bound.
    """
    snapshot = run.load()
    experiment = parse(Experiment, snapshot.values["experiment"], "checkpoint")
    dataset = load_data(experiment, places.home)
    model = trained_model(snapshot).to(device_of(0))
    chosen = choose_images(images or dataset.size(split), dataset.size(split))
    pixels = torch.from_numpy(dataset.images(split)[chosen])
    config = EvaluationConfig(images=len(chosen), **settings)
    seed = snapshot.values["seed"]
    unfinished = Unfinished(
        places.home,
        {
            "weights": digest_of(model.state_dict()),
            "experiment": snapshot.values["experiment"],
            "seed": seed,
            "images": digest_of({"images": pixels}),
            "settings": config.model_dump(mode="json"),
            "code": provenance.code()["sources"],
            "device": model.top.device.type,
        },
    )
    found = evaluate_with(workers, Job(snapshot, pixels, config, seed, unfinished), progress)
    unfinished.discard()
    kappa, parts = _constants(model)
    step = snapshot.values["step"]
    done = Assessment(
        run=run.name,
        handle=run.handle,
        run_id=run.run_id,
        dataset=dataset.name,
        split=split,
        images=len(chosen),
        step=step,
        samples=config.samples,
        draws=config.draws,
        temperatures=config.tau,
        grade=config.kappa,
        metrics=found.metrics,
        errors=_errors(found, config),
        kappa=kappa,
        parts=parts,
        unkept=unfinished.fault,
    )
    notes = {"run": run.name, "step": step, "data": dataset.checksum, "split": split, **settings}
    columns = {"image": torch.from_numpy(chosen), **found.per_image}
    files = {f"{split}.parquet": as_parquet(columns, notes)}
    files |= _figures(done, relaxed=model.config.latent == "categorical")
    files[f"{split}.json"] = json.dumps(done.document(), indent=1).encode()
    return _logged(done, files, places)


def _figures(done: Assessment, *, relaxed: bool) -> dict[str, bytes]:
    """The curve of L_S against S, and that of the bias against the temperature, by file name."""
    title = f"{done.dataset}, {done.split}"
    figures = convergence_curve(done.metrics, done.samples, title)
    if relaxed:
        figures |= bias_curve(done.metrics, done.temperatures, title, done.grade)
    return {f"{done.split}-{name}": figure for name, figure in figures.items()}


def _errors(found: Evaluation, config: EvaluationConfig) -> dict[str, float]:
    """Name → standard error of the mean over images; empty for a single image."""
    columns = {name: values for name, values in found.per_image.items() if name in found.metrics}
    columns["iw_elbo"] = columns[at_samples("iw_elbo", config.samples)]
    columns["kl"] = torch.stack([values for name, values in columns.items() if name.startswith("kl/")]).sum(0)
    for label in map(tau_label, config.tau):
        columns[at("relaxation_bias", label)] = columns[at("surrogate_elbo", label)] - columns["elbo"]
    return {name: standard_error(values) for name, values in columns.items() if len(values) > 1}


def _constants(model: HDVAE) -> tuple[dict[str, float], list[tuple[str, float]]]:
    if model.config.latent == "normal":
        return {}, []
    with evaluating(model):
        certificate = certify(model)
    return certificate.constants(), [(part.name, part.constant) for part in certificate.parts]


def _logged(done: Assessment, files: Mapping[str, bytes], places: Places) -> Assessment:
    """The assessment with its files, logged to the run in MLflow if it is there."""
    done = replace(done, files=files)
    try:
        return replace(done, logged=_log(done, places))
    except Unreachable as fault:  # results that took minutes are not lost with it
        return replace(done, unlogged=str(fault))


def _log(done: Assessment, places: Places) -> bool:
    """Log to the run in MLflow; returns whether MLflow has the run.

    Raises:
        Unreachable: MLflow does not answer.
    """
    if done.run_id is None:
        return False
    client = Client(places)
    if client.get(done.run_id) is None:
        return False
    if done.split == "test":  # metrics under valid/ are those that training logged: arms are compared by them
        entry = Entry(done.step, time.time_ns() // 1_000_000, nested(done.split, dict(done.metrics)))
        measured = {"images": done.images, "draws": done.draws, "samples": done.samples}
        tested = {**measured, "tau": list(done.temperatures), "kappa": done.grade}
        with client.answering():
            client.log_entry(done.run_id, entry)
            client.set_tags(done.run_id, {Tag.TEST_MEASURED: json.dumps(tested)})
    client.log_files(done.run_id, {f"{EVALUATION}/{name}": data for name, data in done.files.items()})
    return True
