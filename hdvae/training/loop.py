"""Training: one step on one screen, and the loop that a session watches.

The loop knows nothing of where it runs. It asks a `Session` for the latest snapshot, moves a `TrainState`, and
reports metrics with a way to take a new snapshot; what becomes of them is the session's business. Several workers run
the same loop, each on its share of the images; the first of them reads and reports for all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from hdvae.bounds.bounds import Bound, certified_bound, distances, hardened, local_bound
from hdvae.bounds.lipschitz import certify
from hdvae.config import parse
from hdvae.data.dataset import Dataset
from hdvae.errors import InputError, Interrupted, NonFinite
from hdvae.evaluation.evaluation import Evaluation, choose_images, evaluate, tiled
from hdvae.evaluation.metrics import nested
from hdvae.evaluation.usage import Usage
from hdvae.experiment.experiment import Experiment, TrainingConfig
from hdvae.experiment.schedules import LEARNED, schedule
from hdvae.network.model import HDVAE, Sampler, Temperature, Terms, independent, relaxed
from hdvae.objectives.estimators import conditional_noise, gumbel_rao, reinmax, straight_through
from hdvae.objectives.objectives import Objective, penalised, score_objective, surrogate_objective
from hdvae.objectives.temperature import LearnedTemperature
from hdvae.randomness.noise import NoiseSource, batch_indices
from hdvae.randomness.seeds import derive
from hdvae.randomness.shares import check_shares
from hdvae.training.optimizer import Adamax, Group, clip_gradients, entries, total_norm
from hdvae.training.revival import revive
from hdvae.workers import ALONE, Workers


@dataclass(frozen=True)
class Snapshot:
    """Everything that moves, ready to be stored: tensors by name and JSON-like values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Session(Protocol):
    """What the loop needs of the place where it runs. All but `stops` are for the first worker alone."""

    @property
    def workers(self) -> Workers:
        """Those that train together."""
        ...

    def latest(self) -> Snapshot | None:
        """The newest snapshot of this run, tensors on the CPU, or None at its beginning."""
        ...

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        per_image: Mapping[str, Tensor],
        snapshot: Callable[[], Snapshot],
    ) -> None:
        """Take the metrics of a step, the values of each validation image, and a snapshot of the state after it."""
        ...

    def stops(self) -> bool:
        """Whether this worker has heard that training is to end now; asked before every step."""
        ...

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Take a snapshot out of turn, after which training ends."""
        ...


class Means:
    """Means of the quantities of the steps since the last report, kept on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self.count = 0

    def add(self, quantities: Mapping[str, Tensor | float]) -> None:
        """Add one step."""
        for name, value in quantities.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: float(total) / self.count for name, total in self._sums.items()}
        self._sums, self.count = {}, 0
        return means

    def snapshot(self) -> Snapshot:
        """The sums, which hold their last bit."""
        tensors = {name: total for name, total in self._sums.items() if isinstance(total, Tensor)}
        numbers = {name: total for name, total in self._sums.items() if name not in tensors}
        return Snapshot(tensors, {"count": self.count, "sums": numbers})

    def restore(self, snapshot: Snapshot, device: torch.device) -> None:
        """Go on from a snapshot."""
        tensors = {name: total.to(device, copy=True) for name, total in snapshot.tensors.items()}
        self._sums, self.count = {**snapshot.values["sums"], **tensors}, snapshot.values["count"]


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
        optimizer: Adamax with two groups, the memory values in the second; row by row where they are read by races.
        average: the model with averaged weights (`training.ema`), or None.
        usage: when each slot of the memories was last used.
        temperature: with `temperature: learned`, what is learned.
        best: with early stopping (`training.patience`), the best weights so far.
        step: optimisation steps done.
        means: of what was measured in the steps that are not reported yet.
    """

    experiment: Experiment
    seed: int
    model: HDVAE
    optimizer: Adamax
    usage: Usage
    average: HDVAE | None = None
    temperature: LearnedTemperature | None = None
    best: Best | None = None
    step: int = 0
    means: Means = field(default_factory=Means)

    @staticmethod
    def fresh(experiment: Experiment, image: tuple[int, int], seed: int, device: torch.device) -> TrainState:
        """The state before the first step: initial weights are a function of the seed."""
        model, config = initial_model(experiment, image, seed).to(device), experiment.training
        learned = config.temperature == LEARNED
        temperature = LearnedTemperature(model, config.temperature_start, config.temperature_floor) if learned else None
        optimizer = make_optimizer(model, None if temperature is None else temperature.to(device))
        average = copy.deepcopy(model).requires_grad_(False) if config.ema is not None else None
        return TrainState(experiment, seed, model, optimizer, Usage(model), average, temperature)

    @property
    def judged(self) -> HDVAE:
        """The model that is evaluated: the averaged one where there is one."""
        return self.model if self.average is None else self.average

    @property
    def tau(self) -> Temperature:
        """The temperature, or temperatures, of the next step."""
        spec = self.experiment.training.temperature
        if self.temperature is not None:
            return self.temperature.tau()
        assert spec != LEARNED
        return schedule(spec)(self.step)

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, by name."""
        own = {f"model/{name}": parameter for name, parameter in self.model.named_parameters()}
        learned = [] if self.temperature is None else self.temperature.named_parameters()
        return own | {f"temperature/{name}": parameter for name, parameter in learned}

    @property
    def is_over(self) -> bool:
        """Whether the last step is done, or patience has run out."""
        config = self.experiment.training
        if self.step >= config.steps:
            return True
        return self.best is not None and config.patience is not None and self.best.worse >= config.patience

    @property
    def is_due(self) -> bool:
        """Whether a report is to be made of the last step."""
        unreported = self.means.count > 0
        return unreported and (self.step % self.experiment.evaluation.every == 0 or self.is_over)

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
        tensors = _prefixed("model", self.model.state_dict()) | _prefixed("usage", self.usage.last)
        if self.temperature is not None:
            tensors |= _prefixed("temperature", self.temperature.state_dict())
        names = {id(parameter): name for name, parameter in self.parameters().items()}
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
        if self.means.count:
            means = self.means.snapshot()
            tensors |= _prefixed("means", means.tensors)
            values["means"] = means.values
        return Snapshot(tensors, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of the same experiment and seed."""
        self.model.load_state_dict(_below("model", snapshot.tensors))
        if self.temperature is not None:
            self.temperature.load_state_dict(_below("temperature", snapshot.tensors))
        for name, last in _below("usage", snapshot.tensors).items():
            self.usage.last[name].copy_(last)
        for name, parameter in self.parameters().items():
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
        if "means" in snapshot.values:
            means = Snapshot(_below("means", snapshot.tensors), snapshot.values["means"])
            self.means.restore(means, next(self.model.parameters()).device)
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


def make_optimizer(model: HDVAE, temperature: LearnedTemperature | None = None) -> Adamax:
    """Adamax with two learning rates (appendix A): group 0 everything else, group 1 the memory values."""
    values = model.memory_values()
    memory = {id(value) for value in values}
    others = [parameter for parameter in model.parameters() if id(parameter) not in memory]
    others += [] if temperature is None else list(temperature.parameters())
    return Adamax([Group(others, 0.0), Group(values, 0.0)])


def train_step(state: TrainState, batch: Tensor, workers: Workers = ALONE) -> dict[str, Tensor | float]:
    """One optimisation step (appendix A): samples, objective with free bits, gradient, Adamax.

    Args:
        state: moved by one step.
        batch: images of 0 and 1, (B, H, W), floating point: this worker's share, as large as every other's.
        workers: that take the step together.

    Returns:
        The quantities of the step for `train/`, scalars, over all workers.

    Raises:
        NonFinite: with the step and the quantity, on all workers; parameters and optimiser are as before the step.
    """
    step, model, seed, config = state.step, state.model, state.seed, state.experiment.training
    tau, freebits = state.tau, schedule(config.freebits)(step)
    torch.manual_seed(derive(seed, "dropout", step, workers.rank))
    model.train()
    climbed = objective_of(state, batch, tau, freebits, workers)
    state.optimizer.forget_gradients()
    _backward(state, climbed)
    parameters = list(state.parameters().values())
    workers.average_gradients(parameters)  # what is not finite on one of them is not finite on all from here
    objective = _averaged(climbed.objective, workers)
    norm = total_norm([p.grad for p in parameters if p.grad is not None])
    _check_finite(state, objective, norm, step)  # before clipping, which spreads a NaN over all gradients
    if config.gradient_clip is not None:
        clip_gradients(parameters, config.gradient_clip, norm)
    rate = _set_learning_rates(state.optimizer, config, step)
    state.optimizer.step()
    _update_average(state)
    state.step += 1
    state.usage.note(climbed.terms, state.step)
    return {
        **_quantities(model, objective),
        **_dropped(model, climbed.terms, workers),
        **_temperatures(model, tau),
        "freebits": freebits,
        "learning_rate": rate,
        "gradient_norm": norm,
    }


@dataclass(frozen=True)
class Climbed:
    """What a step climbs.

    Attributes:
        objective: for the model.
        relaxed: the relaxed ELBO with free bits, which a learned temperature climbs; None where no bound is needed.
        terms: of the samples.
    """

    objective: Objective
    terms: Terms
    relaxed: Tensor | None = None


def objective_of(
    state: TrainState, batch: Tensor, tau: Temperature, freebits: float, workers: Workers = ALONE
) -> Climbed:
    """The objective of one step on this worker's share, as the experiment wants it."""
    model, config = state.model, state.experiment.training
    per_image = config.freebits_per == "image"
    if config.estimator in ("rloo", "vimco"):
        samples, kind = config.estimator_samples, config.estimator
        terms = _several(state, batch, workers)
        objective = score_objective(terms, samples, freebits, estimator=kind, per_image=per_image, workers=workers)
        return Climbed(objective, terms)
    terms = model(batch, model.noise(_source(state, batch, workers)), _sampler(state, batch, tau, workers))
    objective = surrogate_objective(terms, freebits, kl=config.kl, per_image=per_image, workers=workers)
    if not config.needs_bound:
        return Climbed(objective, terms)
    bound = _bound(model, config, batch, terms)
    relaxed = penalised(objective, bound.read if config.objective == "relaxed_elbo_reads" else bound.soft)
    return Climbed(objective if config.objective == "surrogate" else relaxed, terms, relaxed.value)


def _source(
    state: TrainState, batch: Tensor, workers: Workers, sample: int = 0, purpose: str = "training"
) -> NoiseSource:
    """Noise of this step; every sample after the first has a purpose of its own, so that the first is shared."""
    own = purpose if sample == 0 else f"{purpose} {sample}"
    first = workers.rank * len(batch)
    return NoiseSource.at(
        batch.device, batch.dtype, len(batch), seed=state.seed, purpose=own, step=state.step, first=first
    )


def _sampler(state: TrainState, batch: Tensor, tau: Temperature, workers: Workers) -> Sampler:
    config = state.experiment.training
    if config.estimator == "gumbel_rao":
        sources = [_source(state, batch, workers, r, "conditional") for r in range(config.estimator_samples)]
        return gumbel_rao(tau, conditional_noise(state.model, sources))
    if config.estimator == "reinmax":
        return reinmax(1.0)  # where it is second-order exact; its bias grows when it follows a falling temperature
    return (relaxed if config.estimator == "concrete" else straight_through)(tau)


def _several(state: TrainState, batch: Tensor, workers: Workers) -> Terms:
    """Terms of several hard samples of each image; the encoder runs once."""
    model, samples = state.model, state.experiment.training.estimator_samples
    noises = [model.hard_noise(_source(state, batch, workers, s)) for s in range(samples)]
    noise = {node: torch.cat([one[node] for one in noises]) for node in model.nodes}
    encoded = [tiled(h, samples) for h in model.encode(batch)]
    return model.terms(tiled(batch, samples), encoded, noise, independent)


def _bound(model: HDVAE, config: TrainingConfig, batch: Tensor, terms: Terms) -> Bound:
    hard = hardened(model, terms)
    if config.kappa == "local":
        return local_bound(model, batch, terms, hard)
    return certified_bound(certify(model, tight=False), batch, distances(terms, hard))


def _backward(state: TrainState, climbed: Climbed) -> None:
    """Gradients of the objective for the model, and of the relaxed ELBO for a learned temperature."""
    learned = [] if state.temperature is None else list(state.temperature.parameters())
    if climbed.relaxed is None or climbed.relaxed is climbed.objective.value:
        torch.autograd.backward(-climbed.objective.value)
        return
    gradients = torch.autograd.grad(-climbed.relaxed, learned, retain_graph=True)
    torch.autograd.backward(-climbed.objective.value)
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.grad = gradient


def _averaged(objective: Objective, workers: Workers) -> Objective:
    """An objective over all workers, without graphs."""
    value, log_px, *rest = workers.mean([objective.value, objective.log_px, *objective.kl, *objective.spent])
    layers = len(objective.kl)
    return replace(objective, value=value, log_px=log_px, kl=rest[:layers], spent=rest[layers:])


def _quantities(model: HDVAE, objective: Objective) -> dict[str, Tensor | float]:
    kl = {f"kl/{model.name(n)}": k for n, k in zip(model.nodes, objective.kl, strict=True)}
    return {
        "objective": objective.value,
        "surrogate_elbo": objective.surrogate_elbo,
        "log_px": objective.log_px,
        "kl": sum(kl.values()),
        **kl,
    }


def _dropped(model: HDVAE, terms: Terms, workers: Workers) -> dict[str, Tensor | float]:
    """What the races of a step leave unseen, by layer."""
    drops = {layer.node: layer.draw.dropped.mean() for layer in terms.layers if layer.draw.dropped is not None}
    means = workers.mean(list(drops.values()))
    return {f"dropped_mass/{model.name(node)}": mean for node, mean in zip(drops, means, strict=True)}


def _temperatures(model: HDVAE, tau: Temperature) -> dict[str, Tensor | float]:
    """The temperature; learned ones by layer, with their mean."""
    if not isinstance(tau, Mapping):
        return {"tau": tau}
    each = {f"tau/{model.name(node)}": value.detach() for node, value in tau.items()}
    return {"tau": torch.stack(list(each.values())).mean(), **each}


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    decay = state.experiment.training.ema
    if state.average is not None and decay is not None:
        torch._foreach_lerp_(list(state.average.parameters()), list(state.model.parameters()), 1 - decay)


def _check_finite(state: TrainState, objective: Objective, norm: Tensor, step: int) -> None:
    """One synchronisation when all is well; the culprit by name when it is not."""
    if torch.isfinite(torch.stack([objective.value, norm])).all():
        return
    if not torch.isfinite(objective.log_px):
        raise NonFinite(step, "log_px")
    for node, spent in zip(state.model.nodes, objective.spent, strict=True):
        if not torch.isfinite(spent):
            raise NonFinite(step, f"kl/{state.model.name(node)}")
    for name, parameter in state.parameters().items():
        if parameter.grad is not None and not torch.isfinite(entries(parameter.grad)).all():
            raise NonFinite(step, f"gradient of {name.removeprefix('model/')}")
    raise NonFinite(step, "gradient_norm")


def _set_learning_rates(optimizer: Adamax, config: TrainingConfig, step: int) -> float:
    rate = schedule(config.learning_rate)(step)
    others, values = optimizer.groups
    others.rate, values.rate = rate, schedule(config.memory_learning_rate)(step)
    return rate


def check_batch(experiment: Experiment, dataset: Dataset, workers: Workers = ALONE) -> None:
    """What the configuration alone cannot show: the batch against the data and the workers.

    Raises:
        InputError: a batch is larger than the training data, or the workers cannot share it.
    """
    size, images = experiment.training.batch_size, dataset.size("train")
    check_shares(size, workers.size)
    if size > images:
        raise InputError(f"training.batch_size is {size}, but {dataset.name} has {images} training images")


def train(experiment: Experiment, dataset: Dataset, seed: int, session: Session, device: torch.device) -> TrainState:
    """Train an experiment to its last step, from the session's latest snapshot where there is one.

    Reports and snapshots come every `evaluation.every` steps and at the end, so a resumed run repeats at most
    that many steps, and repeats them exactly. A run that is asked to end keeps every step.

    Raises:
        InputError: the data do not fit the experiment, or the workers.
        NonFinite: a quantity of the loss stopped being finite.
        Interrupted: one of the workers was asked to end; all of them do after the same step.
    """
    config, workers = experiment.training, session.workers
    check_batch(experiment, dataset, workers)
    images = torch.from_numpy(dataset.images("train")).to(device)
    kept = torch.from_numpy(choose_images(experiment.evaluation.images, dataset.size("valid")))
    held_out = torch.from_numpy(dataset.images("valid")).to(device)[kept.to(device)]
    state = TrainState.fresh(experiment, (dataset.height, dataset.width), seed, device)
    latest = workers.from_first(session.latest)  # read once, lest they start from different ones
    if latest is not None:
        state.restore(latest)
    share = workers.share(config.batch_size)
    dtype = next(state.model.parameters()).dtype
    while state.is_due or not state.is_over:
        if workers.any(session.stops()):
            _end(state, session)
        elif state.is_due:
            judged = _judge(state, held_out, workers)
            metrics = nested("train", state.means.take() | _slots(state, workers)) | nested("valid", judged.metrics)
            if workers.is_first:
                session.report(state.step, metrics, {"image": kept, **judged.per_image}, state.snapshot)
        else:
            chosen = batch_indices(seed, state.step, config.batch_size, len(images))[share]
            batch = images[torch.from_numpy(chosen).to(device)].to(dtype)
            state.means.add(train_step(state, batch, workers))
    return state


def _slots(state: TrainState, workers: Workers) -> dict[str, float]:
    """How many slots are used; dead ones are drawn anew where that is wanted, but not at the end."""
    state.usage.merge(workers)
    config, step = state.experiment.training, state.step
    if config.revive and not state.is_over and step >= config.dead_after:
        revive(state.model, state.optimizer, state.usage.dead(step, config.dead_after), state.seed, step)
    return state.usage.counts(step, config.dead_after)


def _end(state: TrainState, session: Session) -> NoReturn:
    """End where a report is not due, or before it is made; what is reported is saved already."""
    state.usage.merge(session.workers)
    if state.means.count and session.workers.is_first:
        session.save(state.step, state.snapshot())
    raise Interrupted(state.step)


def _judge(state: TrainState, images: Tensor, workers: Workers) -> Evaluation:
    """Evaluate the current weights; at the end of training the weights that the run stands for.

    With early stopping the last point of each curve is therefore that of the best weights.
    """
    training, over = state.experiment.training, state.is_over
    if training.patience is None:
        return _evaluated(state, state.judged, images, workers, importance=over)
    judged = _evaluated(state, state.judged, images, workers, importance=False)
    state.judge(judged.metrics["elbo"])
    return _evaluated(state, state.result(), images, workers, importance=True) if state.is_over else judged


def _evaluated(state: TrainState, model: HDVAE, images: Tensor, workers: Workers, *, importance: bool) -> Evaluation:
    config = state.experiment.evaluation
    return evaluate(model, images, config, state.seed, importance=importance, current=state.tau, workers=workers)
