"""Training: one step on one screen, and the loop that a session watches.

The loop knows nothing of where it runs. It asks a `Session` for the latest snapshot, moves a `TrainState`, and
reports metrics with a way to take a new snapshot; what becomes of them is the session's business.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hdvae.config import parse
from hdvae.data import Dataset
from hdvae.errors import InputError, NonFinite
from hdvae.evaluation import choose_images, evaluate
from hdvae.experiment import Experiment, TrainingConfig
from hdvae.metrics import nested
from hdvae.model import HDVAE, relaxed
from hdvae.objectives import Objective, surrogate_objective
from hdvae.randomness import NoiseSource, batch_indices, derive
from hdvae.schedules import schedule


@dataclass(frozen=True)
class Snapshot:
    """Everything that moves, ready to be stored: tensors by name and JSON-like values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Session(Protocol):
    """What the loop needs of the place where it runs."""

    def latest(self) -> Snapshot | None:
        """The newest snapshot of this run, or None at its beginning."""
        ...

    def report(self, step: int, metrics: Mapping[str, float], snapshot: Callable[[], Snapshot]) -> None:
        """Take the metrics of a step, and a snapshot of the state after it."""
        ...


@dataclass
class Best:
    """The best weights so far, for early stopping.

    Attributes:
        elbo: their ELBO on the validation images.
        step: when they were found.
        weights: by name.
        worse: evaluations since then.
    """

    elbo: float
    step: int
    weights: dict[str, Tensor]
    worse: int = 0


@dataclass
class TrainState:
    """What training moves. Everything random is a function of the seed and the step, so no generator is kept.

    Attributes:
        experiment: what is trained.
        seed: of the initial weights and of all noise.
        model: the model that is trained.
        optimizer: Adamax with two groups, the memory values in the second.
        average: the model with averaged weights (`training.ema`), or None.
        best: with early stopping (`training.patience`), the best weights so far.
        step: optimisation steps done.
    """

    experiment: Experiment
    seed: int
    model: HDVAE
    optimizer: torch.optim.Optimizer
    average: HDVAE | None = None
    best: Best | None = None
    step: int = 0

    @staticmethod
    def fresh(experiment: Experiment, image: tuple[int, int], seed: int, device: torch.device) -> TrainState:
        """The state before the first step: initial weights are a function of the seed."""
        model = initial_model(experiment, image, seed).to(device)
        optimizer = make_optimizer(model, experiment.training)
        average = copy.deepcopy(model).requires_grad_(False) if experiment.training.ema is not None else None
        return TrainState(experiment, seed, model, optimizer, average)

    @property
    def judged(self) -> HDVAE:
        """The model that is evaluated: the averaged one where there is one."""
        return self.model if self.average is None else self.average

    @property
    def is_over(self) -> bool:
        """Whether the last step is done, or patience has run out."""
        config = self.experiment.training
        if self.step >= config.steps:
            return True
        return self.best is not None and config.patience is not None and self.best.worse >= config.patience

    def judge(self, elbo: float) -> None:
        """Take note of an evaluation, for early stopping."""
        if self.experiment.training.patience is None:
            return
        if self.best is None or elbo > self.best.elbo:
            weights = {name: tensor.clone() for name, tensor in self.judged.state_dict().items()}
            self.best = Best(elbo, self.step, weights)
        else:
            self.best.worse += 1

    def result(self) -> HDVAE:
        """The model that the run stands for: the best, the averaged or the last weights."""
        if self.best is None:
            return self.judged
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.best.weights)
        return model

    def snapshot(self) -> Snapshot:
        """The state, by name; tensors are not copied."""
        tensors = _prefixed("model", self.model.state_dict())
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter, moments in self.optimizer.state.items():
            tensors |= _prefixed(f"optimizer/{names[id(parameter)]}", moments)
        if self.average is not None:
            tensors |= _prefixed("average", self.average.state_dict())
        values: dict[str, Any] = {
            "experiment": self.experiment.plain(),
            "image": list(self.model.image),
            "seed": self.seed,
            "step": self.step,
        }
        if self.best is not None:
            tensors |= _prefixed("best", self.best.weights)
            values["best"] = {"elbo": self.best.elbo, "step": self.best.step, "worse": self.best.worse}
        return Snapshot(tensors, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of the same experiment and seed."""
        self.model.load_state_dict(_below("model", snapshot.tensors))
        for name, parameter in self.model.named_parameters():
            moments = _below(f"optimizer/{name}", snapshot.tensors)
            if moments:
                self.optimizer.state[parameter] = {
                    # Adamax keeps its step count on the CPU
                    key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                    for key, value in moments.items()
                }
        if self.average is not None:
            self.average.load_state_dict(_below("average", snapshot.tensors))
        if "best" in snapshot.values:
            self.best = Best(weights=_below("best", snapshot.tensors), **snapshot.values["best"])
        self.step = snapshot.values["step"]


def initial_model(experiment: Experiment, image: tuple[int, int], seed: int) -> HDVAE:
    """The model before training, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initial weights"))
        return HDVAE(experiment.model, image)


def trained_model(snapshot: Snapshot) -> HDVAE:
    """The model that a snapshot stands for, in evaluation mode on the CPU: best, averaged or last weights."""
    experiment = parse(Experiment, snapshot.values["experiment"], "checkpoint")
    height, width = snapshot.values["image"]
    model = HDVAE(experiment.model, (height, width))
    kinds = [kind for kind in ("best", "average", "model") if _below(kind, snapshot.tensors)]
    model.load_state_dict(_below(kinds[0], snapshot.tensors))
    return model.eval()


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor.detach() for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def make_optimizer(model: HDVAE, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adamax with two learning rates (appendix A): group 0 everything else, group 1 the memory values."""
    values = model.memory_values()
    memory = {id(value) for value in values}
    others = [parameter for parameter in model.parameters() if id(parameter) not in memory]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": values}]
    return torch.optim.Adamax([group for group in groups if group["params"]], foreach=True)


def train_step(state: TrainState, batch: Tensor) -> dict[str, Tensor | float]:
    """One optimisation step (appendix A): relaxed sample, surrogate with free bits, Adamax.

    Args:
        state: moved by one step.
        batch: images of 0 and 1, (B, H, W), floating point.

    Returns:
        The quantities of the step for `train/`, scalars.

    Raises:
        NonFinite: with the step and the quantity; parameters and optimiser are as before the step.
    """
    step, model, seed, config = state.step, state.model, state.seed, state.experiment.training
    tau, freebits = schedule(config.temperature)(step), schedule(config.freebits)(step)
    torch.manual_seed(derive(seed, "dropout", step, 0))
    source = NoiseSource.at(batch.device, batch.dtype, len(batch), seed=seed, purpose="training", step=step)
    model.train()
    terms = model(batch, model.noise(source), relaxed(tau))
    objective = surrogate_objective(terms, freebits, kl=config.kl, per_image=config.freebits_per == "image")
    state.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(-objective.value)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    _check_finite(model, objective, norm, step)  # before clipping, which spreads a NaN over all gradients
    if config.gradient_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.gradient_clip, norm)
    rate = _set_learning_rates(state.optimizer, config, step)
    state.optimizer.step()
    _update_average(state)
    state.step += 1
    kl = {f"kl/{model.name(n)}": k.detach() for n, k in zip(model.nodes, objective.kl, strict=True)}
    return {
        "objective": objective.value.detach(),
        "surrogate_elbo": objective.surrogate_elbo.detach(),
        "log_px": objective.log_px.detach(),
        "kl": sum(kl.values()),
        **kl,
        "tau": tau,
        "freebits": freebits,
        "learning_rate": rate,
        "gradient_norm": norm,
    }


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    decay = state.experiment.training.ema
    if state.average is not None and decay is not None:
        torch._foreach_lerp_(list(state.average.parameters()), list(state.model.parameters()), 1 - decay)


def _check_finite(model: HDVAE, objective: Objective, norm: Tensor, step: int) -> None:
    """One synchronisation when all is well; the culprit by name when it is not."""
    if torch.isfinite(torch.stack([objective.value.detach(), norm])).all():
        return
    if not torch.isfinite(objective.log_px):
        raise NonFinite(step, "log_px")
    for node, spent in zip(model.nodes, objective.spent, strict=True):
        if not torch.isfinite(spent):
            raise NonFinite(step, f"kl/{model.name(node)}")
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise NonFinite(step, f"gradient of {name}")
    raise NonFinite(step, "gradient_norm")


def _set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    rate = schedule(config.learning_rate)(step)
    memory_rate = schedule(config.memory_learning_rate)(step)
    for group, value in zip(optimizer.param_groups, (rate, memory_rate), strict=False):
        group["lr"] = value
    return rate


class Means:
    """Means of the quantities of the steps since the last report, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._count = 0

    def add(self, quantities: Mapping[str, Tensor | float]) -> None:
        """Add one step."""
        for name, value in quantities.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


def check_batch(experiment: Experiment, dataset: Dataset) -> None:
    """What the configuration alone cannot show: the batch against the data.

    Raises:
        InputError: a batch is larger than the training data.
    """
    size, images = experiment.training.batch_size, dataset.size("train")
    if size > images:
        raise InputError(f"training.batch_size is {size}, but {dataset.name} has {images} training images")


def train(experiment: Experiment, dataset: Dataset, seed: int, session: Session, device: torch.device) -> TrainState:
    """Train an experiment to its last step, from the session's latest snapshot where there is one.

    Reports and snapshots come every `evaluation.every` steps and at the end, so a resumed run repeats at most
    that many steps, and repeats them exactly.

    Raises:
        InputError: the data do not fit the experiment.
        NonFinite: a quantity of the loss stopped being finite.
    """
    config = experiment.training
    check_batch(experiment, dataset)
    images = torch.from_numpy(dataset.images("train")).to(device)
    held_out = torch.from_numpy(dataset.images("valid")).to(device)
    held_out = held_out[torch.from_numpy(choose_images(experiment.evaluation.images, len(held_out))).to(device)]
    state = TrainState.fresh(experiment, (dataset.height, dataset.width), seed, device)
    latest = session.latest()
    if latest is not None:
        state.restore(latest)
    means = Means()
    while not state.is_over:
        chosen = batch_indices(seed, state.step, config.batch_size, len(images))
        means.add(train_step(state, images[torch.from_numpy(chosen).to(device)].float()))
        if state.step % experiment.evaluation.every == 0 or state.step == config.steps:
            metrics = nested("train", means.take()) | nested("valid", _judge(state, held_out))
            session.report(state.step, metrics, state.snapshot)
    return state


def _judge(state: TrainState, images: Tensor) -> dict[str, float]:
    """Evaluate the current weights; at the end of training the weights that the run stands for.

    With early stopping the last point of each curve is therefore that of the best weights.
    """
    config, training = state.experiment.evaluation, state.experiment.training
    if training.patience is None:
        return evaluate(state.judged, images, config, state.seed, importance=state.is_over)
    metrics = evaluate(state.judged, images, config, state.seed, importance=False)
    state.judge(metrics["elbo"])
    if state.is_over:
        metrics = evaluate(state.result(), images, config, state.seed, importance=True)
    return metrics
