"""Training: one step on one screen, and the loop that a session watches.

The loop knows nothing of where it runs. It asks a `Session` for the latest snapshot, moves a `TrainState`, and
reports metrics with a way to take a new snapshot; what becomes of them is the session's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

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
class TrainState:
    """What training moves. Everything random is a function of the seed and the step, so no generator is kept.

    Attributes:
        model: the model.
        optimizer: Adamax with two groups, the memory values in the second.
        step: optimisation steps done.
    """

    model: HDVAE
    optimizer: torch.optim.Optimizer
    step: int = 0

    @staticmethod
    def fresh(experiment: Experiment, image: tuple[int, int], seed: int, device: torch.device) -> TrainState:
        """The state before the first step: initial weights are a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "initial weights"))
            model = HDVAE(experiment.model, image)
        model.to(device)
        return TrainState(model, make_optimizer(model, experiment.training))

    def snapshot(self) -> Snapshot:
        """The state, by name; tensors are not copied."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter, moments in self.optimizer.state.items():
            tensors |= {f"optimizer/{names[id(parameter)]}/{key}": value for key, value in moments.items()}
        return Snapshot({name: tensor.detach() for name, tensor in tensors.items()}, {"step": self.step})

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of the same experiment."""
        weights = {
            name.removeprefix("model/"): tensor
            for name, tensor in snapshot.tensors.items()
            if name.startswith("model/")
        }
        self.model.load_state_dict(weights)
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer/{name}/"
            moments = {
                key.removeprefix(prefix): tensor.clone()
                for key, tensor in snapshot.tensors.items()
                if key.startswith(prefix)
            }
            if moments:
                on_device = {k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()}
                self.optimizer.state[parameter] = on_device
        self.step = snapshot.values["step"]


def make_optimizer(model: HDVAE, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adamax with two learning rates (appendix A): group 0 everything else, group 1 the memory values."""
    values = model.memory_values()
    memory = {id(value) for value in values}
    others = [parameter for parameter in model.parameters() if id(parameter) not in memory]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": values}]
    return torch.optim.Adamax([group for group in groups if group["params"]], foreach=True)


def train_step(state: TrainState, batch: Tensor, config: TrainingConfig, seed: int) -> dict[str, Tensor | float]:
    """One optimisation step (appendix A): relaxed sample, surrogate with free bits, Adamax.

    Args:
        state: moved by one step.
        batch: images of 0 and 1, (B, H, W), floating point.
        config: schedules and clipping.
        seed: of the noise and of dropout.

    Returns:
        The quantities of the step for `train/`, scalars.

    Raises:
        NonFinite: with the step and the quantity; parameters and optimiser are as before the step.
    """
    step, model = state.step, state.model
    tau, freebits = schedule(config.temperature)(step), schedule(config.freebits)(step)
    torch.manual_seed(derive(seed, "dropout", step, 0))
    source = NoiseSource.at(batch.device, batch.dtype, len(batch), seed=seed, purpose="training", step=step)
    model.train()
    objective = surrogate_objective(model(batch, model.noise(source), relaxed(tau)), freebits)
    state.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(-objective.value)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    _check_finite(model, objective, norm, step)  # before clipping, which spreads a NaN over all gradients
    if config.gradient_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.gradient_clip, norm)
    rate = _set_learning_rates(state.optimizer, config, step)
    state.optimizer.step()
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


def _check_finite(model: HDVAE, objective: Objective, norm: Tensor, step: int) -> None:
    """One synchronisation when all is well; the culprit by name when it is not."""
    if torch.isfinite(torch.stack([objective.value.detach(), norm])).all():
        return
    if not torch.isfinite(objective.log_px):
        raise NonFinite(step, "log_px")
    for node, kl in zip(model.nodes, objective.kl, strict=True):
        if not torch.isfinite(kl):
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


def train(experiment: Experiment, dataset: Dataset, seed: int, session: Session, device: torch.device) -> TrainState:
    """Train an experiment to its last step, from the session's latest snapshot where there is one.

    Reports and snapshots come every `evaluation.every` steps and at the end, so a resumed run repeats at most
    that many steps, and repeats them exactly.

    Raises:
        InputError: the data do not fit the experiment.
        NonFinite: a quantity of the loss stopped being finite.
    """
    config = experiment.training
    if config.batch_size > dataset.size("train"):
        raise InputError(
            f"training.batch_size is {config.batch_size} but {dataset.name} has {dataset.size('train')} training images"
        )
    images = torch.from_numpy(dataset.images("train")).to(device)
    held_out = torch.from_numpy(dataset.images(experiment.evaluation.split)).to(device)
    held_out = held_out[torch.from_numpy(choose_images(experiment.evaluation.images, len(held_out))).to(device)]
    state = TrainState.fresh(experiment, (dataset.height, dataset.width), seed, device)
    latest = session.latest()
    if latest is not None:
        state.restore(latest)
    means = Means()
    while state.step < config.steps:
        chosen = batch_indices(seed, state.step, config.batch_size, len(images))
        batch = images[torch.from_numpy(chosen).to(device)].float()
        means.add(train_step(state, batch, config, seed))
        last = state.step == config.steps
        if last or state.step % experiment.evaluation.every == 0:
            measured = evaluate(state.model, held_out, experiment.evaluation, seed, importance=last)
            metrics = nested("train", means.take()) | nested(experiment.evaluation.split, measured)
            session.report(state.step, metrics, state.snapshot)
    return state
