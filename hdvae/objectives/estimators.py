"""The gradient estimators of training, one object each (`training.estimator`).

An estimator draws the samples of a training step and makes the objective whose gradient the step follows. To add one,
write its rules in `hdvae.experiment.estimators`, and here a subclass of `Estimator` that carries them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hdvae.experiment import estimators as rules
from hdvae.experiment.estimators import EstimatorRules
from hdvae.experiment.experiment import TrainingConfig
from hdvae.network.model import HDVAE
from hdvae.network.samplers import Sampler, Temperature, independent, relaxed
from hdvae.network.terms import Terms
from hdvae.objectives.hard_forward import conditional_noise, gumbel_rao, reinmax, straight_through
from hdvae.objectives.objectives import Objective, score_objective, surrogate_objective
from hdvae.objectives.score_function import rloo, vimco
from hdvae.randomness.noise import NoiseSource
from hdvae.workers import ALONE, Workers


@dataclass(frozen=True)
class StepInputs:
    """What the objective of one training step is computed from, besides the model and the configuration.

    Attributes:
        images: this worker's share of the batch, 0 and 1, floating point, (B, H, W).
        seed: the seed of the run.
        step: the number of optimisation steps done before this one.
        tau: the temperature, or the temperature of each layer.
        freebits: λ, nats for each layer.
        workers: the workers that share the batch.
    """

    images: Tensor
    seed: int
    step: int
    tau: Temperature
    freebits: float
    workers: Workers = ALONE

    def noise(self, purpose: str = "training", sample: int = 0) -> NoiseSource:
        """The noise of one sample of each image. All estimators use the same noise for their first sample."""
        images, own_purpose = self.images, purpose if sample == 0 else f"{purpose} {sample}"
        first = self.workers.rank * len(images)
        return NoiseSource.at(
            images.device, images.dtype, len(images), seed=self.seed, purpose=own_purpose, step=self.step, first=first
        )


class Estimator(ABC):
    """A gradient estimator.

    Attributes:
        rules: its name, and the settings that it allows.
    """

    rules: ClassVar[EstimatorRules]

    @abstractmethod
    def objective(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> tuple[Objective, Terms]:
        """The objective of a training step, whose gradient the step follows, and the terms of the samples."""


class PathEstimator(Estimator):
    """An estimator with one sample of each image, whose gradient passes through the sample."""

    @abstractmethod
    def sampler(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> Sampler:
        """The sampler of the step."""

    def objective(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> tuple[Objective, Terms]:
        """The surrogate (eq. 5) of the samples with free bits."""
        terms = model(inputs.images, model.noise(inputs.noise()), self.sampler(model, inputs, config))
        per_image = config.freebits_per == "image"
        objective = surrogate_objective(
            terms, inputs.freebits, kl=config.kl, per_image=per_image, workers=inputs.workers
        )
        return objective, terms


class Concrete(PathEstimator):
    """Relaxed samples (eq. 4), differentiated as they are (`hdvae.network.samplers.relaxed`)."""

    rules = rules.CONCRETE

    def sampler(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> Sampler:
        """Relaxed samples at the temperature of the step."""
        return relaxed(inputs.tau)


class StraightThrough(PathEstimator):
    """See `hdvae.objectives.hard_forward.straight_through`."""

    rules = rules.STRAIGHT_THROUGH

    def sampler(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> Sampler:
        """Hard samples with the gradient of relaxed ones."""
        return straight_through(inputs.tau)


class GumbelRao(PathEstimator):
    """See `hdvae.objectives.hard_forward.gumbel_rao`."""

    rules = rules.GUMBEL_RAO

    def sampler(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> Sampler:
        """Hard samples with the mean gradient of `estimator_samples` relaxed ones."""
        sources = [inputs.noise("conditional", r) for r in range(config.estimator_samples)]
        return gumbel_rao(inputs.tau, conditional_noise(model, sources))


class ReinMax(PathEstimator):
    """See `hdvae.objectives.hard_forward.reinmax`."""

    rules = rules.REINMAX

    def sampler(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> Sampler:
        """Hard samples with ReinMax gradients at τ = 1, whatever the temperature of training is.

        At τ = 1 they are exact to second order; the bias of the gradient grows as τ falls (docs/bias.md).
        """
        return reinmax(1.0)


class ScoreEstimator(Estimator):
    """An estimator with several hard samples of each image and score-function gradients.

    Attributes:
        bound: the bound of log p(x): (log-weights (S, B), log q (S, B)) → a scalar.
        sampled_kl: whether the log-weights need sampled log-ratios instead of finite sums.
    """

    bound: ClassVar[Callable[[Tensor, Tensor], Tensor]]
    sampled_kl: ClassVar[bool]

    def objective(self, model: HDVAE, inputs: StepInputs, config: TrainingConfig) -> tuple[Objective, Terms]:
        """The bound of `estimator_samples` hard samples of each image with free bits."""
        samples, per_image = config.estimator_samples, config.freebits_per == "image"
        noises = [model.hard_noise(inputs.noise(sample=s)) for s in range(samples)]
        terms = model.terms_of_samples(inputs.images, model.encode(inputs.images), noises, independent)
        objective = score_objective(
            terms,
            samples,
            inputs.freebits,
            bound=type(self).bound,
            sampled_kl=self.sampled_kl,
            per_image=per_image,
            workers=inputs.workers,
        )
        return objective, terms


class Rloo(ScoreEstimator):
    """The ELBO with the gradient of `hdvae.objectives.score_function.rloo`."""

    rules = rules.RLOO
    bound = rloo
    sampled_kl = False


class Vimco(ScoreEstimator):
    """L_S with the gradient of `hdvae.objectives.score_function.vimco`."""

    rules = rules.VIMCO
    bound = vimco
    sampled_kl = True  # a finite sum inside a log-mean-exp would give a wrong limit


ESTIMATORS: dict[str, Estimator] = {
    estimator.rules.name: estimator
    for estimator in (Concrete(), StraightThrough(), GumbelRao(), ReinMax(), Rloo(), Vimco())
}
"""Every estimator by its name."""
