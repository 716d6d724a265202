"""The training loop.

The loop does not know where it runs. A `Session` provides the latest snapshot, and receives metrics and new snapshots.
Several workers run the same loop, each on its share of the images; the first worker reads and reports for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from hdvae.data.dataset import Dataset
from hdvae.errors import InputError, Interrupted
from hdvae.evaluation.evaluation import Evaluation, evaluate, evaluated_images
from hdvae.evaluation.metrics import nested
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE
from hdvae.randomness.noise import batch_indices
from hdvae.randomness.shares import check_shares
from hdvae.training.costs import Costs
from hdvae.training.revival import revive
from hdvae.training.snapshot import Snapshot
from hdvae.training.state import TrainState
from hdvae.training.step import train_step
from hdvae.workers import ALONE, Workers


@dataclass(frozen=True)
class Report:
    """The results of an evaluation step.

    Attributes:
        step: the number of optimisation steps done.
        metrics: metrics by their full names, `train/…` and `valid/…`: a function of experiment, data and seed.
        per_image: the values of each validation image by metric, and the indices of the images as `image`.
        costs: what the steps since the last report cost (`hdvae.evaluation.metrics.COSTS`).
    """

    step: int
    metrics: Mapping[str, float]
    per_image: Mapping[str, Tensor]
    costs: Mapping[str, float] = field(default_factory=dict)


class Session(Protocol):
    """The place where a training loop runs. All methods but `stops` are called on the first worker only."""

    @property
    def workers(self) -> Workers:
        """The workers that train together."""
        ...

    def latest(self) -> Snapshot | None:
        """The newest snapshot of this run with tensors on the CPU, or None if there is none."""
        ...

    def report(self, report: Report, snapshot: Callable[[], Snapshot]) -> None:
        """Receive the results of an evaluation step, and a function that takes a snapshot of the state after it."""
        ...

    def stops(self) -> bool:
        """Whether this worker has been asked to stop training. Called before every step."""
        ...

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Receive a snapshot between two evaluations, just before training stops on request."""
        ...


def train(
    experiment: Experiment,
    dataset: Dataset,
    seed: int,
    session: Session,
    device: torch.device,
    source: Callable[[], Snapshot] | None = None,
) -> TrainState:
    """Train an experiment to its last step, from the latest snapshot of the session if there is one.

    Args:
        experiment: the settings.
        dataset: the images.
        seed: of all randomness.
        session: where it runs.
        device: where it computes.
        source: reads the last snapshot of another run with this seed, which this run goes on from until it has a
            snapshot of its own.

    Reports and snapshots are made every `evaluation.every` steps and at the end. A run that was killed repeats at most
    that many steps, with the same numbers. A run that stops on request repeats none.

    Raises:
        InputError: the data set or the number of workers does not suit the experiment.
        NonFinite: a quantity of the loss is not finite.
        Interrupted: one of the workers was asked to stop; all of them stop after the same step.
    """
    config, workers = experiment.training, session.workers
    check_batch(experiment, dataset, workers)
    images = torch.from_numpy(dataset.images("train")).to(device)
    kept = torch.from_numpy(evaluated_images(experiment.evaluation, dataset.size("valid")))
    held_out = torch.from_numpy(dataset.images("valid")).to(device)[kept.to(device)]
    state = TrainState.fresh(experiment, (dataset.height, dataset.width), seed, device)
    latest = workers.from_first(session.latest)  # read once, so that all workers start from the same snapshot
    if latest is not None:
        state.restore(latest)
    elif source is not None:
        state.go_on_from(workers.from_first(source))
    share = workers.share(config.batch_size)
    dtype = next(state.model.parameters()).dtype
    costs = Costs(device, config.batch_size)
    while state.report_is_due or not state.is_over:
        if workers.any(session.stops()):
            _stop(state, session)
        elif state.report_is_due:
            state.check_finite()
            spent = costs.measured()
            evaluation = _evaluation_step(state, held_out, workers)
            metrics = nested("train", state.means.take() | _slot_usage(state, workers))
            metrics |= nested("valid", evaluation.metrics)
            if workers.is_first:
                report = Report(state.step, metrics, {"image": kept, **evaluation.per_image}, spent)
                session.report(report, state.snapshot)
            costs.start()
        else:
            if state.revival_is_due:
                _revive(state)
            chosen = batch_indices(seed, state.step, config.batch_size, len(images))[share]
            batch = images[torch.from_numpy(chosen).to(device)].to(dtype)
            state.means.add(train_step(state, batch, workers))
            costs.count_step()
    return state


def check_batch(experiment: Experiment, dataset: Dataset, workers: Workers = ALONE) -> None:
    """Check the batch size against the data set and the number of workers.

    Raises:
        InputError: the batch is larger than the training data, or the workers cannot share it.
    """
    size, images = experiment.training.batch_size, dataset.size("train")
    check_shares(size, workers.size)
    if size > images:
        raise InputError(f"training.batch_size is {size}, but {dataset.name} has {images} training images")


def _slot_usage(state: TrainState, workers: Workers) -> dict[str, float]:
    """The metrics of slot usage."""
    state.usage.merge(workers)
    return state.usage.counts(state.step, state.experiment.training)


def _revive(state: TrainState) -> None:
    """Initialise dead slots again, in the model and in its average.

    This happens after the report, so that the snapshot has the weights that were evaluated. A run that resumes from it
    does the same. The usage was merged for the report.
    """
    dead = state.usage.dead(state.step, state.experiment.training)
    for model in (state.model, state.average):
        if model is not None:
            revive(model, state.optimizer, dead, state.seed, state.step)


def _stop(state: TrainState, session: Session) -> NoReturn:
    """Save the steps since the last report, if there are any, and raise `Interrupted`."""
    state.check_finite()
    state.usage.merge(session.workers)
    if state.means.count and session.workers.is_first:
        session.save(state.step, state.snapshot())
    raise Interrupted(state.step)


def _evaluation_step(state: TrainState, images: Tensor, workers: Workers) -> Evaluation:
    """Evaluate the current weights, or at the end of training the weights that the run returns.

    With early stopping, the last point of each curve therefore belongs to the best weights.
    """
    if state.experiment.training.patience is None:
        return _evaluate(state, state.evaluated_model, images, workers, importance=state.is_over)
    evaluation = _evaluate(state, state.evaluated_model, images, workers, importance=False)
    state.note_elbo(evaluation.metrics["elbo"])
    return _evaluate(state, state.result(), images, workers, importance=True) if state.is_over else evaluation


def _evaluate(state: TrainState, model: HDVAE, images: Tensor, workers: Workers, *, importance: bool) -> Evaluation:
    config = state.experiment.evaluation
    return evaluate(model, images, config, state.seed, importance=importance, current=state.tau, workers=workers)
