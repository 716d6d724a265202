"""The `Experiment`: one training run, described by plain values.

It is read from the `experiment:` part of a study file, strictly: an unknown or ill-typed field is an
`InputError` that names the field and the nearest known one. Everything else in the library takes its
settings from here.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hdvae.config import Config
from hdvae.experiment.schedules import LEARNED, Ramp, ScheduleSpec, TemperatureSpec, values

Positive = Annotated[int, Field(ge=1, le=10**9)]
Size = Annotated[int, Field(ge=1, le=2**16)]
Grade = Literal["certified", "local"]
"""Of a Lipschitz constant: proven to be an upper bound, or the largest gradient that was found."""
WHOLE_SAMPLES = ("straight_through", "gumbel_rao", "reinmax")
"""Estimators whose gradient is that of a relaxed sample of all classes."""
MOST_DRAWS = 1024
"""For one race."""
LEAST_TAU = 1e-6
"""Below it a relaxed sample is a hard one in single precision."""
Probability = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Config):
    """The images: a fetched data set by `name`, or the user's own `.npz` by `path`."""

    name: str | None = None
    path: str | None = None
    binarization: Literal["none", "threshold", "bernoulli"] = "none"

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either name (a fetched data set) or path (your own .npz)")
        if self.name is not None and self.binarization != "none":
            raise ValueError("binarization is for your own images (path): a named data set is binary already")
        return self


class LayerConfig(Config):
    """One stochastic layer z_i: N variables; K classes each (unused by `latent: normal`)."""

    variables: Size
    classes: Annotated[int, Field(ge=2, le=2**24)] = 256
    stride: Positive | None = None
    """Down-sampling from the level below (`blocks: conv`); by default 2 for z_1 and z_2, then 1."""
    kernel: Positive = 3
    """Side of the convolution kernels of this level; odd."""

    @model_validator(mode="after")
    def _odd_kernel(self) -> LayerConfig:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        return self


class RaceConfig(Config):
    """How `reads: race` draws a relaxed sample; see `hdvae.latents.top_m`."""

    draws: Annotated[int, Field(ge=1, le=MOST_DRAWS)] = 64
    """Classes drawn for a read: what it costs."""
    arrivals: Positive | Literal["auto"] = "auto"
    """m: how many of them are arrivals; the others stand for all classes that come later. `auto` chooses from τ."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """What `auto` lets the arrivals drop, as a share of the sample; a tail stands for it where they drop more."""

    @model_validator(mode="after")
    def _fits(self) -> RaceConfig:
        if self.arrivals != "auto" and self.arrivals > self.draws:
            raise ValueError(f"arrivals is {self.arrivals}, but draws is {self.draws}: take at most as many")
        return self


class ModelConfig(Config):
    """The network (paper, appendices A and F)."""

    wiring: Literal["vae", "skip_vae", "lvae", "skip_lvae", "biva"] = "skip_lvae"
    latent: Literal["categorical", "normal"] = "categorical"
    blocks: Literal["conv", "dense"] = "conv"
    width: Size = 64
    """Filters of the convolutions, or units of the fully connected blocks."""
    depth: Size = 3
    """Gated residual blocks in each deterministic connection."""
    dropout: Probability = 0.5
    keys: Literal["factored", "plain"] = "factored"
    key_size: Size = 8
    """d1: size of a half-key (factored), or of a key (plain)."""
    value_size: Size = 8
    """d2: size of a memory value."""
    reads: Literal["dense", "race"] = "dense"
    """Relaxed samples of all classes, or of the first that arrive."""
    race: RaceConfig = RaceConfig()
    shared_values: bool = False
    """Whether the variables of a layer read the same values."""
    decoder: Literal["free", "lipschitz"] = "free"
    """Whether the generative network is free, or made of maps that are 1-Lipschitz by construction."""
    decoder_scale: Annotated[float, Field(gt=0)] | Literal["learned"] = 10.0
    """κ, by which the logits of a `lipschitz` decoder are scaled."""
    layers: Annotated[tuple[LayerConfig, ...], Field(min_length=1)]
    """z_1, next to the data, comes first."""

    @property
    def races(self) -> bool:
        """Whether relaxed samples are races."""
        return self.latent == "categorical" and self.reads == "race"

    @model_validator(mode="after")
    def _square_memories(self) -> ModelConfig:
        if self.latent == "categorical" and self.keys == "factored":
            for i, layer in enumerate(self.layers):
                root = math.isqrt(layer.classes)
                if root * root != layer.classes:
                    near = min(root**2, (root + 1) ** 2, key=lambda square: abs(square - layer.classes))
                    raise ValueError(
                        f"layers.{i}.classes is {layer.classes}: factored keys need a perfect square "
                        f"(nearest: {near}), or set keys: plain"
                    )
        return self


class TrainingConfig(Config):
    """The optimisation (paper, appendix A)."""

    steps: Positive
    batch_size: Positive = 128
    """Images in a step, over all workers."""
    temperature: TemperatureSpec = ((0, 0.8), (200_000, 0.3), (400_000, 0.1))
    """A schedule; or `learned`: one τ for each layer, which follows the gradient of the relaxed ELBO."""
    temperature_start: Annotated[float, Field(gt=0)] = 0.5
    """Where a learned temperature starts."""
    temperature_floor: Annotated[float, Field(gt=0)] = 0.05
    """What a learned temperature stays above."""
    freebits: ScheduleSpec = 2.0
    """λ in nats for each stochastic layer."""
    freebits_per: Literal["batch", "image"] = "batch"
    """Whether the mean over the batch must spend λ, or every image."""
    kl: Literal["analytic", "hard", "relaxed", "concrete"] = "analytic"
    """How the KL terms are treated (appendix D); see `hdvae.objectives.objectives.training_kl`."""
    objective: Literal["surrogate", "relaxed_elbo", "relaxed_elbo_reads"] = "surrogate"
    """What is climbed: eq. 5; or that minus its Lipschitz bound (eqs. 8 and 12), in z̃ or behind the reads."""
    kappa: Grade = "certified"
    """The κ of a relaxed ELBO that trains a model or a temperature."""
    estimator: Literal["concrete", "straight_through", "gumbel_rao", "reinmax", "rloo", "vimco"] = "concrete"
    """How the gradient passes through the samples; see `hdvae.objectives.estimators`."""
    estimator_samples: Annotated[int, Field(ge=2, le=10**4)] = 4
    """S: samples of each image for `rloo` and `vimco`; conditional samples of `gumbel_rao`."""
    learning_rate: ScheduleSpec = 2e-3
    memory_learning_rate: ScheduleSpec = 2e-2
    """Learning rate of the memory values."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the whole gradient; none by default."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated; none by default."""
    dead_after: Positive = 1000
    """A slot that q has not chosen for so many steps is dead."""
    revive: bool = False
    """Whether dead slots are drawn anew at each evaluation."""
    patience: Positive | None = None
    """Stop after this many evaluations without a better ELBO, and keep the best weights; none by default."""

    @property
    def needs_bound(self) -> bool:
        """Whether a Lipschitz bound takes part in training."""
        return self.objective != "surrogate" or self.temperature == LEARNED

    @model_validator(mode="after")
    def _ranges(self) -> TrainingConfig:
        schedules = {
            name: getattr(self, name)
            for name in ("temperature", "freebits", "learning_rate", "memory_learning_rate")
            if getattr(self, name) != LEARNED
        }
        for name, spec in schedules.items():
            if name != "freebits" and min(values(spec)) <= 0:
                raise ValueError(f"{name} must stay above 0")
        if "temperature" in schedules and min(values(schedules["temperature"])) < LEAST_TAU:
            raise ValueError(f"temperature must not fall below {LEAST_TAU:g}")
        if min(values(self.freebits)) < 0:
            raise ValueError("freebits must not be negative")
        for name, spec in schedules.items():
            if isinstance(spec, Ramp) and spec.steps < 1:
                raise ValueError(f"{name}.steps must be at least 1, got {spec.steps}")
            if isinstance(spec, Ramp) and spec.shape == "exponential" and min(values(spec)) <= 0:
                raise ValueError(f"{name}: an exponential ramp needs start and end above 0")
        return self

    @model_validator(mode="after")
    def _learned_temperature(self) -> TrainingConfig:
        if self.temperature == LEARNED and self.temperature_start <= self.temperature_floor:
            raise ValueError("temperature_start must be above temperature_floor")
        return self

    @model_validator(mode="after")
    def _estimator(self) -> TrainingConfig:
        if self.estimator == "concrete":
            return self
        if self.needs_bound:
            what = "temperature: learned" if self.objective == "surrogate" else f"objective: {self.objective}"
            raise ValueError(f"{what} needs estimator: concrete; with {self.estimator} the samples are hard")
        if self.kl == "concrete":
            raise ValueError(f"kl: concrete needs estimator: concrete; with {self.estimator} the samples are hard")
        if self.estimator in ("rloo", "vimco") and self.kl != "analytic":
            raise ValueError(f"estimator: {self.estimator} has its own treatment of the KL; leave kl: analytic")
        return self


class EvaluationConfig(Config):
    """What is measured, how often and how precisely."""

    every: Positive = 1000
    """Steps between evaluations; a checkpoint is kept at each."""
    images: Positive = 1000
    """A fixed random subset of the split; all of it if it holds fewer."""
    draws: Positive = 10
    """M: noise draws for each image."""
    samples: Positive = 100
    """S: importance-weighted samples for each image, at the end of training."""
    tau: Annotated[tuple[Annotated[float, Field(ge=LEAST_TAU)], ...], Field(min_length=1)] = (0.1,)
    """Temperatures at which bias and bounds are measured; a bare metric name means the first."""
    kappa: Grade = "certified"
    """The κ of `lipschitz_bound`: `certified` is proven, `local` is an estimate, and dearer for deep models."""


class Experiment(Config):
    """One training run without its seed."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _categorical(self) -> Experiment:
        training = self.training
        if self.model.latent == "normal" and (training.estimator != "concrete" or training.needs_bound):
            what = "temperature: learned"
            if training.estimator != "concrete":
                what = f"estimator: {training.estimator}"
            elif training.objective != "surrogate":
                what = f"objective: {training.objective}"
            raise ValueError(f"training.{what} is for model.latent: categorical; a normal variable is not relaxed")
        return self

    @model_validator(mode="after")
    def _races(self) -> Experiment:
        training = self.training
        whole = "estimator" if training.estimator in WHOLE_SAMPLES else "kl" if training.kl == "concrete" else None
        if whole is not None and self.model.races:
            raise ValueError(
                f"training.{whole}: {getattr(training, whole)} needs relaxed samples of all classes: "
                "set model.reads: dense"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """The experiment as JSON-like values, every default filled in."""
        return self.model_dump(mode="json")

    @property
    def fingerprint(self) -> str:
        """A short name of exactly these settings: the same settings have the same one on every machine."""
        return fingerprint(self.plain())


def fingerprint(plain: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of JSON-like values in canonical form."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
