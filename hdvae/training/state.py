"""The state that training changes: the model, its optimiser, and everything else that a resumed run needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hdvae.config import parse
from hdvae.evaluation.usage import Usage
from hdvae.experiment.experiment import Experiment, TrainingConfig
from hdvae.experiment.schedules import LEARNED, schedule
from hdvae.network.model import HDVAE
from hdvae.network.samplers import Temperature
from hdvae.objectives.temperature import LearnedTemperature
from hdvae.randomness.seeds import derive
from hdvae.training.continuation import check_continuation
from hdvae.training.finite import FirstNonFinite
from hdvae.training.optimizer import ROW_MOMENTS, Adamax, Group, moment_shapes
from hdvae.training.snapshot import Snapshot, below, check_names, check_tensors, prefixed

GRADIENT_NORM = "gradient_norm"


class Means:
    """Running means of the metrics of all steps since the last report, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self.count = 0

    def add(self, quantities: Mapping[str, Tensor | float]) -> None:
        """Add the metrics of one step, which are the same in every step.

        Raises:
            InputError: the means come from a snapshot with other metrics.
        """
        if self.count:
            check_names(quantities, self._sums, "means")
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in quantities.items()}
        self.count += 1

    def take(self) -> dict[str, float]:
        """Return the means, and start again with none."""
        means = {name: float(total) / self.count for name, total in self._sums.items()}
        self._sums, self.count = {}, 0
        return means

    def plain(self) -> dict[str, Any]:
        """The sums as JSON-like values, from which the means are restored to the last bit."""
        return {"count": self.count, "sums": {name: float(total) for name, total in self._sums.items()}}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Continue from the result of `plain`."""
        self._sums, self.count = dict(plain["sums"]), plain["count"]


@dataclass
class Best:
    """The best weights so far, for early stopping.

    Attributes:
        elbo: their ELBO on the validation images, nats per image.
        step: the step of their evaluation.
        weights: the weights by name.
    """

    elbo: float
    step: int
    weights: dict[str, Tensor]


@dataclass
class TrainState:
    """The state of a training run.

    All random numbers are functions of the seed and the step, so it holds no random generator.

    Attributes:
        experiment: the settings of the run.
        seed: the seed of the initial weights and of all noise.
        model: the model in training.
        optimizer: Adamax with two groups: all other parameters, then the memory values.
        usage: the step at which each slot of the memories was last used.
        average: the model with averaged weights (`training.ema`), or None.
        temperature: the learned temperatures (`temperature: learned`), or None.
        best: the best weights so far, with early stopping (`training.patience`), or None.
        worse: the number of evaluations since then, with early stopping.
        step: the number of optimisation steps done.
        means: the running means of the metrics since the last report.
        finite: remembers whether the quantities of the steps since the last report are finite; None if every step
            checks its own.
    """

    experiment: Experiment
    seed: int
    model: HDVAE
    optimizer: Adamax
    usage: Usage
    average: HDVAE | None = None
    temperature: LearnedTemperature | None = None
    best: Best | None = None
    worse: int = 0
    step: int = 0
    means: Means = field(default_factory=Means)
    finite: FirstNonFinite | None = None

    @staticmethod
    def fresh(experiment: Experiment, image: tuple[int, int], seed: int, device: torch.device) -> TrainState:
        """The state before the first step, with initial weights that are a function of the seed."""
        model, config = initial_model(experiment, image, seed).to(device), experiment.training
        learned = config.temperature == LEARNED
        temperature = LearnedTemperature(model, config.temperature_start, config.temperature_floor) if learned else None
        optimizer = make_optimizer(model, None if temperature is None else temperature.to(device))
        average = copy.deepcopy(model).requires_grad_(False) if config.ema is not None else None
        state = TrainState(experiment, seed, model, optimizer, Usage(model), average, temperature)
        # Certified constants are those of weights that are finite, so a step that needs them is waited for.
        if device.type == "cuda" and not config.needs_bound:
            state.finite = FirstNonFinite(quantities_of(model, config))
        return state

    @property
    def evaluated_model(self) -> HDVAE:
        """The model to evaluate: the averaged one if there is one, else the one in training."""
        return self.model if self.average is None else self.average

    @property
    def tau(self) -> Temperature:
        """The temperature of the next step, or that of each layer."""
        spec = self.experiment.training.temperature
        if self.temperature is not None:
            return self.temperature.tau()
        assert spec != LEARNED
        return schedule(spec)(self.step)

    def parameters(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name."""
        own = {f"model/{name}": parameter for name, parameter in self.model.named_parameters()}
        learned = [] if self.temperature is None else self.temperature.named_parameters()
        return own | {f"temperature/{name}": parameter for name, parameter in learned}

    @property
    def is_over(self) -> bool:
        """Whether training is finished: all steps are done, or the ELBO has not improved for `patience` evaluations."""
        config = self.experiment.training
        return self.step >= config.steps or (config.patience is not None and self.worse >= config.patience)

    @property
    def report_is_due(self) -> bool:
        """Whether the last step is an evaluation step that has not been reported yet."""
        unreported = self.means.count > 0
        return unreported and (self.step % self.experiment.evaluation.every == 0 or self.is_over)

    @property
    def revival_is_due(self) -> bool:
        """Whether dead slots are initialised again before the next step: after each evaluation step."""
        config, after_evaluation = self.experiment.training, self.step % self.experiment.evaluation.every == 0
        return config.revive and after_evaluation

    def check_finite(self) -> None:
        """Check the steps since the last report, where no step checks itself.

        Raises:
            NonFinite: a quantity was not finite.
        """
        if self.finite is not None:
            self.finite.check()

    def note_elbo(self, elbo: float) -> None:
        """Record the ELBO of an evaluation (nats per image) for early stopping; only a finite one can be the best."""
        if self.experiment.training.patience is None:
            return
        if math.isfinite(elbo) and (self.best is None or elbo > self.best.elbo):
            weights = {name: tensor.clone() for name, tensor in self.evaluated_model.state_dict().items()}
            self.best, self.worse = Best(elbo, self.step, weights), 0
        else:
            self.worse += 1

    def result(self) -> HDVAE:
        """The model that the run returns: with the best, the averaged or the last weights."""
        if self.best is None:
            return self.evaluated_model
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.best.weights)
        return model

    def snapshot(self) -> Snapshot:
        """The state as a snapshot, whose tensors are not copies."""
        tensors = prefixed("model", self.model.state_dict()) | prefixed("usage", self.usage.last)
        if self.temperature is not None:
            tensors |= prefixed("temperature", self.temperature.state_dict())
        names = {id(parameter): name for name, parameter in self.parameters().items()}
        for parameter, moments in self.optimizer.state.items():
            tensors |= prefixed(f"optimizer/{names[id(parameter)]}", moments)
        if self.average is not None:
            tensors |= prefixed("average", self.average.state_dict())
        values: dict[str, Any] = {
            "experiment": self.experiment.plain(),
            "image": list(self.model.image),
            "seed": self.seed,
            "step": self.step,
            "worse": self.worse,
        }
        if self.best is not None:
            tensors |= prefixed("best", self.best.weights)
            values["best"] = {"elbo": self.best.elbo, "step": self.best.step}
        if self.means.count:
            values["means"] = self.means.plain()
        return Snapshot(tensors, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of the same experiment and seed. The state must be fresh.

        Raises:
            InputError: the snapshot lacks tensors that this state has, has others, or has values that are not finite.
        """
        self._check(snapshot)
        self._take(snapshot)

    def go_on_from(self, source: Snapshot) -> None:
        """Go on from the last step of a run with the same seed, with the settings of this one. The state must be fresh.

        Weights, their average, learned temperatures, the moments of the optimiser and the use of the slots are taken
        over. An average that the other run did not have begins with its weights.

        Raises:
            InputError: this run cannot go on from that one (`hdvae.training.continuation`).
        """
        before = parse(Experiment, source.values["experiment"], "checkpoint")
        check_continuation(self.experiment, before, source.values["step"])
        starts = (*self.snapshot().tensors, *(f"optimizer/{name}/" for name in self.parameters()))
        tensors = {name: tensor for name, tensor in source.tensors.items() if name.startswith(starts)}
        if self.average is not None and before.training.ema is None:
            tensors |= prefixed("average", below("model", source.tensors))
        self._take(Snapshot(tensors, {"step": source.values["step"], "worse": 0}))

    def _take(self, snapshot: Snapshot) -> None:
        self.model.load_state_dict(below("model", snapshot.tensors))
        if self.temperature is not None:
            self.temperature.load_state_dict(below("temperature", snapshot.tensors))
        for name, last in below("usage", snapshot.tensors).items():
            self.usage.last[name].copy_(last)
        moments = {p: below(f"optimizer/{name}", snapshot.tensors) for name, p in self.parameters().items()}
        self.optimizer.restore(
            # There are none before the first step.
            {p: {key: value.to(p.device, copy=True) for key, value in own.items()} for p, own in moments.items() if own}
        )
        if self.average is not None:
            self.average.load_state_dict(below("average", snapshot.tensors))
        if "best" in snapshot.values:
            self.best = Best(weights=below("best", snapshot.tensors), **snapshot.values["best"])
        if "means" in snapshot.values:
            self.means.restore(snapshot.values["means"])
        self.step, self.worse = snapshot.values["step"], snapshot.values["worse"]

    def _check(self, snapshot: Snapshot) -> None:
        """Check that a snapshot has exactly the parts that this experiment needs; the state must be fresh."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.snapshot().tensors.items()}
        values, step = {"worse"}, snapshot.values["step"]
        if "best" in snapshot.values:
            shapes |= {f"best/{name}": tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.parameters().items() if step else ():  # each has a gradient in every step
            by_row = f"optimizer/{name}/{ROW_MOMENTS[0]}" in snapshot.tensors
            moments = moment_shapes(parameter.shape, by_row=by_row)
            shapes |= {f"optimizer/{name}/{moment}": shape for moment, shape in moments.items()}
        if step < self.experiment.training.steps and step % self.experiment.evaluation.every:
            values.add("means")  # of the steps since the last report
        check_tensors(shapes, snapshot.tensors, f"step {step}")
        check_names(values, values & snapshot.values.keys(), f"step {step}")


def quantities_of(model: HDVAE, config: TrainingConfig) -> list[str]:
    """The names of what must be finite in every step, in the order in which they are looked at."""
    kl = [f"kl/{model.name(node)}" for node in model.nodes]
    return ["log_px", *kl, "objective" if config.objective == "surrogate" else "lipschitz_bound", GRADIENT_NORM]


def initial_model(experiment: Experiment, image: tuple[int, int], seed: int) -> HDVAE:
    """The model before training, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initial weights"))
        return HDVAE(experiment.model, image)


def make_optimizer(model: HDVAE, temperature: LearnedTemperature | None = None) -> Adamax:
    """Adamax with two learning rates (appendix A): group 1 has the memory values, group 0 all other parameters."""
    values = model.memory_values()
    memory = {id(value) for value in values}
    others = [parameter for parameter in model.parameters() if id(parameter) not in memory]
    others += [] if temperature is None else list(temperature.parameters())
    return Adamax([Group(others, 0.0), Group(values, 0.0)])
