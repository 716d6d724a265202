"""The `Experiment`: the settings of one training run.

`Experiment.from_plain` reads it from JSON-like values, such as the `experiment:` part of a study file. Reading is
strict: an unknown field or a value of the wrong type is an `InputError` that names the field and the nearest known one.
Everything else in the library takes its settings from here.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hdvae.config import Config, parse
from hdvae.experiment.estimators import RULES, EstimatorName, KlTreatment
from hdvae.experiment.schedules import LEARNED, Ramp, ScheduleSpec, TemperatureSpec, values

Positive = Annotated[int, Field(ge=1, le=10**9)]
Size = Annotated[int, Field(ge=1, le=2**16)]
Grade = Literal["certified", "local"]
"""Kind of a Lipschitz constant κ: a proven upper bound, or an estimate by the largest of some gradients."""
Precision = Literal["float32", "tf32", "bfloat16"]
MOST_DRAWS = 1024
"""Largest number of classes drawn for one sampled top-m read."""
LEAST_TAU = 1e-6
"""Smallest temperature; below it a relaxed sample equals a hard one in single precision."""
MOST_RATE = 1e30
"""Largest learning rate; far above it an update is not finite in single precision."""
Probability = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Config):
    """The images: a fetched data set by its `name`, or your own `.npz` file by its `path`."""

    name: str | None = None
    path: str | None = None
    binarization: Literal["none", "threshold", "bernoulli"] = "none"

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either name (a fetched data set) or path (your own .npz)")
        if self.name is not None and self.binarization != "none":
            raise ValueError("binarization is for your own images (path); a named data set is binary already")
        return self


class LayerConfig(Config):
    """One stochastic layer z_i of N variables with K classes each (`latent: normal` ignores the classes)."""

    variables: Size
    classes: Annotated[int, Field(ge=2, le=2**24)] = 256
    stride: Positive | None = None
    """Stride of the down-sampling from the level below (`blocks: conv`); by default 2 for z_1 and z_2, else 1."""
    kernel: Positive = 3
    """Side length of the convolution kernels of this level, an odd number."""

    @model_validator(mode="after")
    def _odd_kernel(self) -> LayerConfig:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        return self


class RaceConfig(Config):
    """The sampled top-m reads of `reads: race`; see `hdvae.latents.top_m`."""

    draws: Annotated[int, Field(ge=1, le=MOST_DRAWS)] = 64
    """Number of classes drawn for each read. The cost of a read grows with it."""
    arrivals: Positive | Literal["auto"] = "auto"
    """m, the number of draws that have their exact weights (the first arrivals of the race); the other draws estimate
    the weight of all remaining classes. `auto` chooses m from the temperature."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest expected share of the sample that `auto` may drop; where m draws drop more, the others estimate it."""

    @model_validator(mode="after")
    def _fits(self) -> RaceConfig:
        if self.arrivals != "auto" and self.arrivals > self.draws:
            raise ValueError(f"arrivals is {self.arrivals}, but draws is {self.draws}: arrivals must not exceed draws")
        return self


class ModelConfig(Config):
    """The network (paper, appendices A and F)."""

    wiring: Literal["vae", "skip_vae", "lvae", "skip_lvae", "biva"] = "skip_lvae"
    latent: Literal["categorical", "normal"] = "categorical"
    blocks: Literal["conv", "dense"] = "conv"
    width: Size = 64
    """Number of filters of the convolutions, or of units of the fully connected blocks."""
    depth: Size = 3
    """Number of gated residual blocks in each deterministic connection."""
    dropout: Probability = 0.5
    weight_norm: bool = True
    """Whether the connections have weight normalisation, as in the paper."""
    keys: Literal["factored", "plain"] = "factored"
    key_size: Size = 8
    """d1, the size of a half-key (factored keys) or of a key (plain keys)."""
    value_size: Size = 8
    """d2, the size of a memory value."""
    reads: Literal["dense", "race"] = "dense"
    """Whether relaxed samples have a weight for every class, or are sampled top-m reads (by a race of the classes)."""
    race: RaceConfig = RaceConfig()
    shared_values: bool = False
    """Whether all variables of a layer read one common table of values."""
    decoder: Literal["free", "lipschitz"] = "free"
    """Whether the generative network is unconstrained, or made of maps that are 1-Lipschitz by construction."""
    decoder_scale: Annotated[float, Field(gt=0)] | Literal["learned"] = 10.0
    """κ, the factor on the logits of a `lipschitz` decoder."""
    layers: Annotated[tuple[LayerConfig, ...], Field(min_length=1)]
    """The stochastic layers; z_1, next to the data, comes first."""

    @property
    def top_m_reads(self) -> bool:
        """Whether relaxed samples are sampled top-m reads (`reads: race`)."""
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
    """Number of images in a step, summed over all workers."""
    temperature: TemperatureSpec = ((0, 0.8), (200_000, 0.3), (400_000, 0.1))
    """A schedule; or `learned`: one τ for each layer, trained with the gradient of the relaxed ELBO."""
    temperature_start: Annotated[float, Field(ge=LEAST_TAU)] = 0.5
    """Initial value of a learned temperature."""
    temperature_floor: Annotated[float, Field(ge=LEAST_TAU)] = 0.05
    """Lower limit of a learned temperature."""
    freebits: ScheduleSpec = 2.0
    """λ, nats for each stochastic layer; 0 is off."""
    freebits_per: Literal["batch", "image"] = "batch"
    """Whether free bits apply to the mean KL of the batch, or to the KL of every image."""
    kl: KlTreatment = "analytic"
    """How the KL terms are treated (appendix D); see `hdvae.objectives.objectives.training_kl`."""
    objective: Literal["surrogate", "relaxed_elbo", "relaxed_elbo_reads"] = "surrogate"
    """The training objective: eq. 5, or eq. 5 minus its Lipschitz bound (eqs. 8 and 12) in terms of the relaxed samples
    z̃ or of the reads."""
    kappa: Grade = "certified"
    """The kind of κ in a relaxed ELBO that trains the model or a temperature."""
    estimator: EstimatorName = "concrete"
    """How the gradient passes through the samples; see `hdvae.objectives.estimators`."""
    estimator_samples: Annotated[int, Field(ge=2, le=10**4)] = 4
    """S: samples of each image for `rloo` and `vimco`; conditional samples of `gumbel_rao`."""
    learning_rate: ScheduleSpec = 2e-3
    memory_learning_rate: ScheduleSpec = 2e-2
    """Learning rate of the memory values."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the whole gradient; no clipping by default."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then evaluated; no averaging by default. It is
    bias-corrected: the initial weights do not count."""
    dead_after: Annotated[float, Field(gt=0)] = 20.0
    """Expected visits without one of which a slot counts as dead: it was not used in so many steps that hard samples
    would have chosen it this often, on average, if they chose all slots alike (see `dead_window`). A slot of uniform
    use is called dead with probability e^(−dead_after), 2e-9 by default."""
    revive: bool = False
    """Whether dead slots are initialised again after each evaluation."""
    precision: Precision = "float32"
    """Precision of matrix products and convolutions in training (`hdvae.network.precision`); evaluations are always in
    float32."""
    patience: Positive | None = None
    """Number of evaluations without a better ELBO after which training stops early and keeps the best weights; by
    default training never stops early."""

    def dead_window(self, classes: int) -> int:
        """Number of steps in which uniform use chooses each of K slots `dead_after` times, on average."""
        samples = self.estimator_samples if RULES[self.estimator].many_samples else 1
        return math.ceil(self.dead_after * classes / (self.batch_size * samples))

    @property
    def needs_bound(self) -> bool:
        """Whether training computes a Lipschitz bound."""
        return self.bound_setting is not None

    @property
    def bound_setting(self) -> str | None:
        """The setting, as written in a study file, because of which training computes a Lipschitz bound."""
        if self.objective != "surrogate":
            return f"objective: {self.objective}"
        return f"temperature: {LEARNED}" if self.temperature == LEARNED else None

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
            if name.endswith("learning_rate") and max(values(spec)) > MOST_RATE:
                raise ValueError(f"{name} must not exceed {MOST_RATE:g}")
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
        RULES[self.estimator].check_training(self)
        return self


class EvaluationConfig(Config):
    """What evaluations measure, how often and how precisely."""

    every: Positive = 1000
    """Steps between two evaluations. A checkpoint is kept at each evaluation."""
    images: Positive = 1000
    """Size of the fixed random subset of the split; all images if the split has fewer."""
    draws: Positive = 10
    """M, the number of noise draws for each image."""
    part: Literal["all", "search", "held_out"] = "all"
    """The part of the validation images of which these are a subset: all, or one of two fixed halves."""
    samples: Positive = 100
    """S, the number of importance-weighted samples for each image at the end of training."""
    tau: Annotated[tuple[Annotated[float, Field(ge=LEAST_TAU)], ...], Field(min_length=1)] = (0.1,)
    """Temperatures at which biases and bounds are measured. A metric name without a temperature means the first."""
    kappa: Grade = "certified"
    """The kind of κ in `lipschitz_bound`: `certified` is proven; `local` is an estimate, and slower for deep models."""


class Experiment(Config):
    """The settings of one training run, without its seed."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _training_suits_the_model(self) -> Experiment:
        model, training = self.model, self.training
        RULES[training.estimator].check_model(model)
        if model.latent == "normal" and training.needs_bound:
            setting = training.bound_setting
            raise ValueError(f"training.{setting} is for model.latent: categorical; normal variables are not relaxed")
        if model.top_m_reads and training.kl == "concrete":
            raise ValueError("training.kl: concrete needs relaxed samples of all classes: set model.reads: dense")
        return self

    @model_validator(mode="after")
    def _revival_spares_uniform_use(self) -> Experiment:
        """Refuse `training.revive` where slots that are used like all others would be called dead."""
        if self.training.revive and self.model.latent == "categorical":
            layer = max(self.model.layers, key=lambda layer: layer.variables * layer.classes)
            slots, visits = layer.variables * layer.classes, self.training.dead_after
            if slots * math.exp(-visits) >= 1:
                raise ValueError(
                    f"training.revive with training.dead_after: {visits:g} would reinitialise about "
                    f"{slots * math.exp(-visits):.0f} of {slots} slots of a layer that uses all alike; "
                    f"set dead_after to at least {math.floor(math.log(slots)) + 1}"
                )
        return self

    @classmethod
    def from_plain(cls, values: Any, where: str = "experiment") -> Experiment:
        """Read an experiment from JSON-like values, as they stand in a study file.

        Args:
            values: a mapping of fields; those with defaults may be left out.
            where: the name of the source in error messages, e.g. a file.

        Raises:
            InputError: a field is unknown or missing, or has a wrong value.
        """
        return parse(cls, values, where)

    def plain(self) -> dict[str, Any]:
        """The experiment as JSON-like values, with every default filled in."""
        return self.model_dump(mode="json")

    @property
    def fingerprint(self) -> str:
        """A short hash of the settings: equal settings have equal hashes on every machine.

        The place of your own images does not count: their checksum stands beside it wherever it is used.
        """
        plain = self.plain()
        del plain["data"]["path"]
        return fingerprint(plain)


def fingerprint(plain: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of JSON-like values in canonical form."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
