"""The settings of a study's experiment, in short and in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hdvae.experiment.experiment import Experiment
from hdvae_platform.display.text import brief
from hdvae_platform.store.places import redacted
from hdvae_platform.study.constraints import in_words
from hdvae_platform.study.space import Dimension
from hdvae_platform.study.study import Study

VARIED = "varied"
"""The text instead of the value of a setting that differs between arms."""
NETWORK = ("wiring", "latent", "blocks", "width", "depth", "dropout")
TRAINING = (
    "steps",
    "batch_size",
    "temperature",
    "freebits",
    "kl",
    "estimator",
    "objective",
    "learning_rate",
    "memory_learning_rate",
    "patience",
)
"""The settings of the network and of training that the short description lists."""


def all_settings(study: Study, experiments: Sequence[Experiment]) -> dict[str, str]:
    """Every setting as text by its dotted path; `VARIED` where it was varied.

    Args:
        study: the study.
        experiments: the experiment of each arm.
    """
    plain = [_flat(experiment.plain()) for experiment in experiments]
    paths = dict.fromkeys(path for one in plain for path in one)
    return {path: _value_in_words(study, path, [one.get(path) for one in plain]) for path in paths}


def in_short(study: Study, settings: Mapping[str, str], images: int | None) -> dict[str, str]:
    """A short description of the experiment: a few lines by their names.

    Args:
        study: the study.
        settings: from `all_settings`.
        images: number of validation images that were evaluated; None if unknown.
    """
    lines = {
        "data": _data(settings),
        "network": _named(settings, "model", NETWORK),
        "layers": _layers(settings),
        "training": _named(settings, "training", TRAINING),
        "evaluation": _evaluation(settings, images),
        "varied": "; ".join(f"{path}: {_range(dimension)}" for path, dimension in study.space.items()),
        "search": _search(study),
    }
    return {name: text for name, text in lines.items() if text}


def _flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path → value; a list of layers becomes the settings of each layer."""
    flat = {f"{part}.{name}": value for part, fields in plain.items() for name, value in fields.items()}
    layers = flat.pop("model.layers")
    return flat | {f"model.layers.{i}.{key}": value for i, layer in enumerate(layers) for key, value in layer.items()}


def _value_in_words(study: Study, path: str, values: Sequence[Any]) -> str:
    """One setting as text. A setting of the space counts as varied even where only one of its values has begun.

    Of a ramp only the fields that were varied count as such.
    """
    fields = {varied.removeprefix(f"{path}.") for varied in study.space if varied.startswith(f"{path}.")}
    if fields and all(isinstance(value, dict) for value in values):
        return redacted(brief({**values[0], **{field: f"{field} ({VARIED})" for field in fields}}))
    if any(value != values[0] for value in values) or any(_overlap(path, varied) for varied in study.space):
        return VARIED
    return "none" if values[0] is None else redacted(brief(values[0]))


def _overlap(one: str, other: str) -> bool:
    """Whether one path equals or contains the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _named(settings: Mapping[str, str], part: str, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {settings[f'{part}.{name}']}" for name in names)


def _data(settings: Mapping[str, str]) -> str:
    source = ", ".join(settings[path] for path in ("data.name", "data.path") if settings[path] != "none")
    return source + (
        "" if settings["data.binarization"] == "none" else f", binarization {settings['data.binarization']}"
    )


def _layers(settings: Mapping[str, str]) -> str:
    """The layers from the one next to the data upwards."""
    paths = [path for path in settings if path.startswith("model.layers.") and path.endswith(".variables")]
    if all(settings[path] == VARIED for path in settings if path.startswith("model.layers.")):
        return VARIED
    classes = settings["model.latent"] != "normal"
    return "; ".join(
        f"z_{i}: variables {settings[path]}"
        + (f", classes {settings[path.removesuffix('variables') + 'classes']}" if classes else "")
        for i, path in enumerate(paths, 1)
    )


def _evaluation(settings: Mapping[str, str], images: int | None) -> str:
    """The evaluation; a split may have fewer images than the study file asks for."""
    at_most = settings["evaluation.images"]
    count = f"{images} images" if images is not None and at_most != VARIED else f"at most {at_most} images"
    split = "the validation split" if settings["evaluation.part"] == "all" else "one half of the validation split"
    return (
        f"every {settings['evaluation.every']} steps on {count} of {split}, with M = "
        f"{settings['evaluation.draws']} draws for each; at the end iw_elbo with S = {settings['evaluation.samples']}; "
        f"bias, bounds and surrogate at τ = {temperatures(settings['evaluation.tau'])}"
    )


def temperatures(text: str) -> str:
    """The temperatures of the evaluation.

    >>> temperatures("[0.1]"), temperatures("[0.1, 0.5]"), temperatures("varied")
    ('0.1', '0.1, 0.5 (a metric whose name has no τ is at 0.1)', 'varied')
    """
    values = text.strip("[]")
    default = first_temperature(text)
    return values if values == default else f"{values} (a metric whose name has no τ is at {default})"


def first_temperature(text: str) -> str:
    """The first temperature of the evaluation, at which metrics without a temperature in their name are measured.

    >>> first_temperature("[0.1, 0.5]"), first_temperature("varied")
    ('0.1', 'varied')
    """
    return text.strip("[]").split(", ")[0]


def _range(dimension: Dimension) -> str:
    if dimension.choices is not None:
        return " | ".join(redacted(brief(choice)) for choice in dimension.choices)
    return f"{dimension.low:g} to {dimension.high:g}" + (", log" if dimension.log else "")


def _search(study: Study) -> str:
    sets, search, confirm = study.parameter_sets(), study.search, study.confirm
    limit = f"{search.hours:g} hours" if sets is None else "1 parameter set" if sets == 1 else f"{sets} parameter sets"
    pruner = f", pruner {search.pruner}" if search.pruner else ""
    limits = f", with {in_words(search.constraints)}" if search.constraints else ""
    again = f"; the best {confirm.top} trained again with {confirm.seeds} fresh seeds each" if confirm else ""
    again += ", and evaluated on images that the search did not see" if study.holds_out else ""
    again += f"; each seed goes on from its run of {study.start_from}" if study.start_from else ""
    seeds = ", ".join(map(str, study.seeds))
    wanted = ", ".join(f"{direction} {metric}" for metric, direction in search.objectives.items())
    return f"{search.method}, {limit}{limits}{pruner}, seeds {seeds}; {wanted}{again}"
