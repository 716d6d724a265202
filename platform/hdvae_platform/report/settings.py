"""What was run: the settings that the arms of a study share, in short and in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hdvae.experiment.experiment import Experiment
from hdvae_platform.display.text import brief
from hdvae_platform.store.places import redacted
from hdvae_platform.study.space import Dimension
from hdvae_platform.study.study import Study

VARIED = "varied"
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
"""The settings of a network and of its training that are told in short."""


def all_settings(study: Study, experiments: Sequence[Experiment]) -> dict[str, str]:
    """Every setting by its dotted path, in words; `VARIED` where it was varied.

    Args:
        study: that the experiments are of.
        experiments: its arms'.
    """
    plain = [_flat(experiment.plain()) for experiment in experiments]
    paths = dict.fromkeys(path for one in plain for path in one)
    return {path: _told(study, path, [one.get(path) for one in plain]) for path in paths}


def in_short(study: Study, told: Mapping[str, str], images: int | None) -> dict[str, str]:
    """What a reader must know of the experiment to know what the numbers are of: a few lines, by their names.

    Args:
        study: whose experiment it is.
        told: from `all_settings`.
        images: how many were measured; None if that is not known.
    """
    found = {
        "data": _data(told),
        "network": _named(told, "model", NETWORK),
        "layers": _layers(told),
        "training": _named(told, "training", TRAINING),
        "measured": _measured(told, images),
        "varied": "; ".join(f"{path}: {_range(dimension)}" for path, dimension in study.space.items()),
        "search": _search(study),
    }
    return {name: text for name, text in found.items() if text}


def _flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path → value; layers one by one."""
    flat = {f"{part}.{name}": value for part, fields in plain.items() for name, value in fields.items()}
    layers = flat.pop("model.layers")
    return flat | {f"model.layers.{i}.{key}": value for i, layer in enumerate(layers) for key, value in layer.items()}


def _told(study: Study, path: str, values: Sequence[Any]) -> str:
    """One value in words; it is varied too where those runs have not begun that would show it."""
    if any(value != values[0] for value in values) or any(_overlap(path, varied) for varied in study.space):
        return VARIED
    return "none" if values[0] is None else redacted(brief(values[0]))


def _overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or inside it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _named(told: Mapping[str, str], part: str, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {told[f'{part}.{name}']}" for name in names)


def _data(told: Mapping[str, str]) -> str:
    source = ", ".join(told[path] for path in ("data.name", "data.path") if told[path] != "none")
    return source + ("" if told["data.binarization"] == "none" else f", binarization {told['data.binarization']}")


def _layers(told: Mapping[str, str]) -> str:
    """From the one next to the data upwards."""
    paths = [path for path in told if path.startswith("model.layers.") and path.endswith(".variables")]
    if all(told[path] == VARIED for path in told if path.startswith("model.layers.")):
        return VARIED
    classes = told["model.latent"] != "normal"
    return "; ".join(
        f"z_{i}: variables {told[path]}"
        + (f", classes {told[path.removesuffix('variables') + 'classes']}" if classes else "")
        for i, path in enumerate(paths, 1)
    )


def _measured(told: Mapping[str, str], images: int | None) -> str:
    """The evaluation; a split may hold fewer images than are asked for."""
    at_most = told["evaluation.images"]
    what = f"{images} images" if images is not None and at_most != VARIED else f"at most {at_most} images"
    return (
        f"every {told['evaluation.every']} steps on {what} of the validation split, draws (M) "
        f"{told['evaluation.draws']} for each; at the end iw_elbo with S = {told['evaluation.samples']}; "
        f"bias, bounds and surrogate at τ = {temperatures(told['evaluation.tau'])}"
    )


def temperatures(told: str) -> str:
    """The temperatures of the evaluation; the first is that of metrics that name none.

    >>> temperatures("[0.1]"), temperatures("[0.1, 0.5]"), temperatures("varied")
    ('0.1', '0.1 (where a metric names no τ), 0.5', 'varied')
    """
    first, *more = told.strip("[]").split(", ")
    return ", ".join([f"{first} (where a metric names no τ)", *more]) if more else first


def _range(dimension: Dimension) -> str:
    if dimension.choices is not None:
        return " | ".join(redacted(brief(choice)) for choice in dimension.choices)
    return f"{dimension.low:g} to {dimension.high:g}" + (", log" if dimension.log else "")


def _search(study: Study) -> str:
    sets, search, confirm = study.parameter_sets(), study.search, study.confirm
    limit = f"{search.hours:g} hours" if sets is None else "1 parameter set" if sets == 1 else f"{sets} parameter sets"
    pruner = f", pruner {search.pruner}" if search.pruner else ""
    again = f"; the best {confirm.top} again on {confirm.seeds} fresh seeds" if confirm else ""
    seeds = ", ".join(map(str, study.seeds))
    wanted = ", ".join(f"{direction} {metric}" for metric, direction in search.objectives.items())
    return f"{search.method}, {limit}{pruner}, seeds {seeds}; {wanted}{again}"
