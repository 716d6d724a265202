"""The names of all metrics, for evaluation, tracking, search and comparison.

A full name is `split/metric`, e.g. `valid/elbo`. A metric that depends on a temperature or a number of samples also
appears as `metric@tau=0.1` or `metric@S=100`; a name without a temperature means the first one of `evaluation.tau`.
Unless stated otherwise, metrics are means over images, in nats per image.
"""

from __future__ import annotations

from hdvae.errors import InputError, nearest
from hdvae.experiment.experiment import Experiment, LayerConfig
from hdvae.experiment.schedules import LEARNED
from hdvae.network.wiring import WIRINGS

DESCRIPTIONS = {
    "elbo": "L₁ at τ = 0: the evidence lower bound with hard samples; higher is better",
    "elbo_se": "standard error of elbo over images",
    "iw_elbo": "L_S at τ = 0: the importance-weighted bound with S hard samples; higher is better",
    "iw_elbo_se": "standard error of iw_elbo over images",
    "surrogate_elbo": "L₁ at τ > 0 (eq. 5): what training maximises; not a bound of log p(x)",
    "surrogate_elbo_se": "standard error of surrogate_elbo over images",
    "coupled_elbo": "q of the relaxed chain with p and the decoder given H(z̃): a lower bound of log p(x)",
    "relaxed_elbo": "surrogate_elbo − lipschitz_bound: a lower bound of log p(x) with a certified κ, else an estimate",
    "relaxed_elbo_reads": "surrogate_elbo − lipschitz_bound_reads: the tighter bound of the two",
    "relaxation_bias": "|surrogate_elbo − elbo| at τ (eq. 6)",
    "relaxation_bias_signed": "surrogate_elbo − elbo at τ",
    "relaxation_bias_se": "standard error of relaxation_bias_signed over images",
    "coupled_bias": "|surrogate_elbo − coupled_elbo| at τ",
    "coupled_bias_se": "standard error of surrogate_elbo − coupled_elbo over images",
    "jensen_bound": "E|surrogate − coupled| on the same noise (finite sums in the KL terms): bounds coupled_bias",
    "lipschitz_bound": "Σ κ E‖z̃ − H(z̃)‖₂: bounds jensen_bound if κ is certified (evaluation.kappa)",
    "lipschitz_bound_reads": "Σ κ E‖y(z̃) − y(H(z̃))‖₂ of the reads y: tighter, and equally valid",
    "kl": "E[log q/p] over the hard chain, all layers",
    "kl_se": "standard error of kl over images",
    "log_px": "E[log p(x|z)] over the hard chain",
}
"""The metrics of an evaluation. For each layer there are also `kl/layer_i`; `distance/layer_i`, E‖z̃ − H(z̃)‖₂; with
sampled top-m reads `dropped_mass/layer_i`, an upper bound of the expected share of z̃ that they drop; and with memories
those of `SLOT_USE`."""

SLOT_USE = tuple(f"{name}{limit}" for name in ("perplexity", "coverage") for limit in ("", "_low", "_high"))
"""The metrics of each memory, `perplexity/layer_i` etc., means over its variables: `perplexity`, exp of the entropy of
the use q(k) of the slots, their effective number; `coverage`, the share of slots that 20 K draws from q(k) are expected
to meet; and `_low` and `_high`, the limits of their 95% intervals over images. See `hdvae.evaluation.slot_use`."""

AT_ZERO = ("elbo", "elbo_se", "iw_elbo", "iw_elbo_se", "kl", "kl_se", "log_px")
"""The metrics that do not depend on a temperature."""
CURRENT = "tau=current"
"""Label of the training temperature (or temperatures) at the step of the evaluation."""

TRAINING_DESCRIPTIONS = {
    "objective": "the training objective (with free bits), which is maximised",
    "surrogate_elbo": "the surrogate on training batches at the current temperature",
    "log_px": "E[log p(x|z̃)] on training batches",
    "kl": "the KL on training batches, all layers, without free bits",
    "tau": "the temperature; if it is learned, the mean over layers, and `tau/layer_i`",
    "freebits": "λ, nats for each layer",
    "learning_rate": "learning rate of all parameters except the memory values",
    "gradient_norm": "norm of the whole gradient before clipping",
    "clipped": "the share of steps whose gradient was clipped; only with `training.gradient_clip`",
}
"""The metrics under `train/`: means since the last report. For each memory there are also `slots_used/layer_i`, the
number of slots used so far, and `dead_slots/layer_i`, the number of dead slots (`training.dead_after`), once that can
be known. Both are means over its variables, of K slots each."""

COSTS = {
    "train/images_per_second": "images that all workers together train on in a second, without evaluations",
    "system/memory_peak_mb": "peak of the resident memory of the first worker's process since training began, MB",
    "system/gpu_memory_peak_mb": "peak of the memory that tensors of the first worker needed on its GPU, MB",
    "system/gpu_utilization_percent": "share of the time in which the first worker's GPU computes, %, as NVML tells",
}
"""What a run costs, by full names. These depend on the machine and its load: unlike metrics, they are never the same
twice, and a study cannot be tuned on them."""

PER_LAYER = tuple(
    f"{name}/layer_" for name in ("kl", "distance", "tau", "dropped_mass", *SLOT_USE, "slots_used", "dead_slots")
)
"""The beginnings of the names of metrics of single layers."""


def tau_label(tau: float) -> str:
    """The label of a temperature in metric names.

    >>> tau_label(0.1)
    'tau=0.1'
    """
    return f"tau={tau:g}"


def at(metric: str, label: str) -> str:
    """The name of a metric at one temperature.

    >>> at("surrogate_elbo", tau_label(0.1)), at("surrogate_elbo", CURRENT)
    ('surrogate_elbo@tau=0.1', 'surrogate_elbo@tau=current')
    """
    return f"{metric}@{label}"


def at_samples(metric: str, samples: int) -> str:
    """The name of a metric with one number of samples.

    >>> at_samples("iw_elbo", 100)
    'iw_elbo@S=100'
    """
    return f"{metric}@S={samples}"


def sample_counts(samples: int) -> list[int]:
    """The numbers of samples at which L_S is known from one pass: 1, 10, 100, … and S itself.

    >>> sample_counts(1000), sample_counts(50)
    ([1, 10, 100, 1000], [1, 10, 50])
    """
    return [*(10**k for k in range(len(str(samples))) if 10**k < samples), samples]


def error_name(metric: str) -> str:
    """The name of the standard error of a metric over images.

    >>> error_name("valid/elbo"), error_name("relaxation_bias@tau=0.1")
    ('valid/elbo_se', 'relaxation_bias_se@tau=0.1')
    """
    name, label, at = metric.partition("@")
    return f"{name}_se{label}{at}"


def metric_names(experiment: Experiment) -> list[str]:
    """The names, without the split, of all metrics in the last evaluation of this experiment."""
    names = list(_layers(experiment))
    relaxed = [name for name in DESCRIPTIONS if name not in AT_ZERO]
    relaxed += [f"distance/{name}" for name in names] if experiment.model.latent == "categorical" else []
    relaxed += [f"dropped_mass/{name}" for name in names] if experiment.model.top_m_reads else []
    labels = [*(tau_label(tau) for tau in experiment.evaluation.tau), CURRENT]
    return [
        *AT_ZERO,
        *(f"kl/{name}" for name in names),
        *(f"{use}/{name}" for use in SLOT_USE for name in names if experiment.model.latent == "categorical"),
        *relaxed,
        *(at(name, label) for label in labels for name in relaxed),
        *(
            at_samples(f"iw_elbo{se}", count)
            for count in sample_counts(experiment.evaluation.samples)
            for se in ("", "_se")
        ),
    ]


def training_metric_names(experiment: Experiment) -> list[str]:
    """The names, without the split, of all metrics of training in the last report of this experiment."""
    model, training = experiment.model, experiment.training
    layers = _layers(experiment)
    memories = layers if model.latent == "categorical" else {}
    sampled_reads = model.top_m_reads and training.estimator == "concrete"
    return [
        *(name for name in TRAINING_DESCRIPTIONS if name != "clipped" or training.gradient_clip is not None),
        *(f"kl/{name}" for name in layers),
        *(f"tau/{name}" for name in layers if training.temperature == LEARNED),
        *(f"dropped_mass/{name}" for name in layers if sampled_reads),
        *(f"slots_used/{name}" for name in memories),
        *(f"dead_slots/{name}" for name, k in memories.items() if training.dead_window(k.classes) <= training.steps),
    ]


def _layers(experiment: Experiment) -> dict[str, LayerConfig]:
    """The names of the groups of variables in metrics, and the settings of their layers."""
    wiring, layers = WIRINGS[experiment.model.wiring], experiment.model.layers
    return {wiring.name(node, len(layers)): layers[node.level - 1] for node in wiring.nodes(len(layers))}


def check_tunable(name: str) -> None:
    """Check that a study can be tuned on a metric, given by its full name.

    Raises:
        InputError: the metric does not exist, or is of the test split. The message names the nearest metric.
    """
    split, _, metric = name.partition("/")
    base = metric.partition("@")[0]
    if split == "test":
        raise InputError(f"a study must not be tuned on the test split: use valid/{metric}, not {name}")
    known = DESCRIPTIONS if split == "valid" else TRAINING_DESCRIPTIONS if split == "train" else {}
    if base not in known and not base.startswith(PER_LAYER):
        if name in DESCRIPTIONS:
            raise InputError(f"unknown metric {name}; did you mean 'valid/{name}'?")
        likely = next((f"{split}/{m}" for m in known if base in m.split("_")), name)  # the usual ones come first
        names = [f"valid/{m}" for m in DESCRIPTIONS] + [f"train/{m}" for m in TRAINING_DESCRIPTIONS]
        raise InputError(f"unknown metric {name}{nearest(likely, names)}")


def nested(split: str, values: dict[str, float]) -> dict[str, float]:
    """Metrics with the split before their names.

    >>> nested("valid", {"elbo": -90.0})
    {'valid/elbo': -90.0}
    """
    return {f"{split}/{name}": value for name, value in values.items()}
