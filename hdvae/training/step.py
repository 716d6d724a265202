"""One optimisation step (appendix A): samples, objective, gradient, Adamax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hdvae.bounds.bounds import Bound, certified_bound, distances, hardened, local_bound
from hdvae.bounds.lipschitz import certify
from hdvae.errors import NonFinite
from hdvae.experiment.experiment import TrainingConfig
from hdvae.experiment.schedules import schedule
from hdvae.network.dropout import dropping
from hdvae.network.model import HDVAE
from hdvae.network.precision import products_in
from hdvae.network.samplers import Temperature
from hdvae.network.terms import Terms
from hdvae.objectives.estimators import ESTIMATORS, StepInputs
from hdvae.objectives.objectives import Objective, penalised
from hdvae.training.optimizer import Adamax, clip, entries, total_norm
from hdvae.training.state import GRADIENT_NORM, TrainState, quantities_of
from hdvae.workers import ALONE, Workers


def train_step(state: TrainState, batch: Tensor, workers: Workers = ALONE) -> dict[str, Tensor | float]:
    """Take one optimisation step.

    Args:
        state: the state, which the step changes.
        batch: this worker's share of the batch, 0 and 1, floating point, (B, H, W); all shares have the same size.
        workers: the workers that take the step together.

    Returns:
        The metrics of the step under `train/`: scalars, means over all workers.

    Raises:
        NonFinite: a quantity is not finite. It is raised on all workers, before parameters and optimiser change. On a
            GPU the step is not waited for, and `state.finite` remembers it.
    """
    step, model, config = state.step, state.model, state.experiment.training
    tau, freebits = state.tau, schedule(config.freebits)(step)
    inputs = StepInputs(batch, state.seed, step, tau, freebits, workers)
    model.train()
    state.optimizer.forget_gradients()
    with products_in(config.precision, model.parts):
        with dropping(model.dropouts, inputs.noise):
            objective = step_objective(model, inputs, config)
        _backward(state, objective)
    workers.average_rows(parameter for group in state.optimizer.groups for parameter in group.parameters)
    dense, rows = state.optimizer.collect()
    workers.average(dense)  # from here on, what is not finite on one worker is not finite on any
    averaged, gradients = _averaged(objective.model, workers), [*dense, *rows]
    norm = total_norm(gradients)
    if state.finite is None:
        _check_finite(state, averaged, norm)  # before clipping, which would spread a NaN over all gradients
    else:
        state.finite.note(step, list(_quantities(state, averaged, norm).values()))
    clipped: dict[str, Tensor] = {}
    if config.gradient_clip is not None:
        clipped["clipped"] = clip(gradients, config.gradient_clip, norm)
    learning_rate = _set_learning_rates(state.optimizer, config, step)
    state.optimizer.step()
    state.step += 1
    _update_average(state)
    state.usage.note(objective.terms, state.step)
    return {
        **_objective_metrics(model, averaged),
        **_dropped_masses(model, objective.terms, workers),
        **_temperatures(model, tau),
        "freebits": freebits,
        "learning_rate": learning_rate,
        "gradient_norm": norm,
        **clipped,
    }


@dataclass(frozen=True)
class StepObjective:
    """What a step maximises.

    Attributes:
        model: the objective that trains the model.
        terms: the terms of the samples.
        relaxed_elbo: the relaxed ELBO with free bits, which trains a learned temperature, a scalar in nats per image;
            None if the experiment needs no Lipschitz bound.
    """

    model: Objective
    terms: Terms
    relaxed_elbo: Tensor | None = None


def step_objective(model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> StepObjective:
    """The objective of one step on this worker's share of the batch."""
    objective, terms = ESTIMATORS[config.estimator].objective(model, inputs, config)
    if not config.needs_bound:
        return StepObjective(objective, terms)
    with products_in("float32", model.parts):
        bound = _lipschitz_bound(model, config, inputs.images, terms)
    relaxed = penalised(objective, bound.read if config.objective == "relaxed_elbo_reads" else bound.soft)
    return StepObjective(objective if config.objective == "surrogate" else relaxed, terms, relaxed.value)


def _lipschitz_bound(model: HDVAE, config: TrainingConfig, images: Tensor, terms: Terms) -> Bound:
    hard = hardened(model, terms)
    if config.kappa == "local":
        return local_bound(model, images, terms, hard)
    return certified_bound(certify(model, tight=False), images, distances(terms, hard))


def _backward(state: TrainState, objective: StepObjective) -> None:
    """Compute the gradient of the model's objective, and that of the relaxed ELBO in a learned temperature."""
    learned = [] if state.temperature is None else list(state.temperature.parameters())
    if objective.relaxed_elbo is None or objective.relaxed_elbo is objective.model.value:
        torch.autograd.backward(-objective.model.value)
        return
    gradients = torch.autograd.grad(-objective.relaxed_elbo, learned, retain_graph=True)
    torch.autograd.backward(-objective.model.value)
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.grad = gradient


def _averaged(objective: Objective, workers: Workers) -> Objective:
    """The mean of an objective over all workers, without graphs."""
    value, log_px, *rest = workers.mean([objective.value, objective.log_px, *objective.kl, *objective.spent])
    layers = len(objective.kl)
    return replace(objective, value=value, log_px=log_px, kl=rest[:layers], spent=rest[layers:])


def _objective_metrics(model: HDVAE, objective: Objective) -> dict[str, Tensor | float]:
    kl = {f"kl/{model.name(n)}": k for n, k in zip(model.nodes, objective.kl, strict=True)}
    return {
        "objective": objective.value,
        "surrogate_elbo": objective.surrogate_elbo,
        "log_px": objective.log_px,
        "kl": sum(kl.values()),
        **kl,
    }


def _dropped_masses(model: HDVAE, terms: Terms, workers: Workers) -> dict[str, Tensor | float]:
    """For each layer with sampled top-m reads, the share of the relaxed samples that they drop."""
    drops = {layer.node: layer.draw.dropped.mean() for layer in terms.layers if layer.draw.dropped is not None}
    means = workers.mean(list(drops.values()))
    return {f"dropped_mass/{model.name(node)}": mean for node, mean in zip(drops, means, strict=True)}


def _temperatures(model: HDVAE, tau: Temperature) -> dict[str, Tensor | float]:
    """The temperature; for learned temperatures, that of each layer and their mean."""
    if not isinstance(tau, Mapping):
        return {"tau": tau}
    each = {f"tau/{model.name(node)}": value.detach() for node, value in tau.items()}
    return {"tau": torch.stack(list(each.values())).mean(), **each}


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    """Include the new weights in the average, whose weights after t steps are Σ_s decay^(t − s) w_s, normalised.

    This is the bias correction of Kingma and Ba 2014, section 3, as a recursion: the initial weights do not count.
    """
    decay = state.experiment.training.ema
    if state.average is not None and decay is not None:
        share = (1 - decay) / (1 - decay**state.step)
        torch._foreach_lerp_(list(state.average.parameters()), list(state.model.parameters()), share)


def _check_finite(state: TrainState, objective: Objective, norm: Tensor) -> None:
    """Raise `NonFinite` with the name of the first quantity that is not finite, or of the parameter whose gradient is.

    When all are finite, this synchronises with the device once only.
    """
    if torch.isfinite(torch.stack([objective.value, norm])).all():
        return
    for quantity, value in _quantities(state, objective, norm).items():
        if quantity != GRADIENT_NORM and not torch.isfinite(value):
            raise NonFinite(state.step, quantity)
    for name, parameter in state.parameters().items():
        if parameter.grad is not None and not torch.isfinite(entries(parameter.grad)).all():
            raise NonFinite(state.step, f"gradient of {name.removeprefix('model/')}")
    raise NonFinite(state.step, GRADIENT_NORM)


def _quantities(state: TrainState, objective: Objective, norm: Tensor) -> dict[str, Tensor]:
    """What must be finite in a step, scalars in the order in which they are looked at (`quantities_of`)."""
    values = [objective.log_px, *objective.spent, objective.value, norm]
    return dict(zip(quantities_of(state.model, state.experiment.training), values, strict=True))


def _set_learning_rates(optimizer: Adamax, config: TrainingConfig, step: int) -> float:
    rate = schedule(config.learning_rate)(step)
    others, values = optimizer.groups
    others.rate, values.rate = rate, schedule(config.memory_learning_rate)(step)
    return rate
