"""The experiment's settings: strict reading in plain words, defaults, round trips and fingerprints."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.experiment.experiment import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    LayerConfig,
    ModelConfig,
    TrainingConfig,
    fingerprint,
)


def plain(**changes):
    """A minimal experiment as a study file holds it; `model__width=4` sets a field of a part."""
    settings = {
        "data": {"name": "static_mnist"},
        "model": {"layers": [{"variables": 4}, {"variables": 2, "classes": 16}]},
        "training": {"steps": 10},
    }
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            settings.setdefault(part, {})[field] = value
        else:
            settings[part] = value
    return settings


def read(**changes):
    return parse(Experiment, plain(**changes), "study.yaml")


def complaint(**changes):
    with pytest.raises(InputError) as caught:
        read(**changes)
    text = str(caught.value)
    assert text.startswith("study.yaml: ")
    assert "\n" not in text
    return text.removeprefix("study.yaml: ")


# --- Defaults -----------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_paper():
    experiment = read()
    training, model = experiment.training, experiment.model
    assert (training.batch_size, training.freebits) == (128, 2.0)
    assert (training.learning_rate, training.memory_learning_rate) == (2e-3, 2e-2)
    assert training.temperature == ((0, 0.8), (200_000, 0.3), (400_000, 0.1))
    assert (model.dropout, model.width, model.layers[0].classes) == (0.5, 64, 256)
    assert experiment.evaluation == EvaluationConfig()


def test_settings_cannot_be_changed():
    experiment = read()
    with pytest.raises(ValidationError, match="frozen"):
        experiment.training.steps = 11
    assert hash(experiment.model) == hash(read().model)


# --- Strictness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainign": {}}, "unknown field trainign; did you mean 'training'?"),
        ({"training__freebit": 2.0}, "unknown field training.freebit; did you mean 'freebits'?"),
        ({"training__lr": 1.0}, "unknown field training.lr; known: batch_size, dead_after, ema, "),
        ({"model__layers": [{"varables": 4}]}, "unknown field model.layers.0.varables; did you mean 'variables'?"),
        ({"evaluation__draw": 3}, "unknown field evaluation.draw; did you mean 'draws'?"),
        ({"training": {"batch_size": 4}}, "training.steps is missing"),
        ({"data": {}}, "data: give either name (a fetched data set) or path (your own .npz)"),
        ({"data": {"name": "a", "path": "b"}}, "data: give either name"),
        ({"data__binarization": "threshold"}, "data: binarization is for your own images (path)"),
        ({"data": {"path": "a", "binarization": "bernouli"}}, "data.binarization: "),
        ({"training__steps": 0}, "training.steps: must be at least 1, got 0"),
        ({"training__steps": "10"}, 'training.steps: must be an integer, got "10"'),
        ({"training__steps": 10.5}, "training.steps: must be an integer, got 10.5"),
        ({"training__steps": True}, "training.steps: must be an integer, got true"),
        ({"training__gradient_clip": 0}, "training.gradient_clip: must be above 0, got 0"),
        ({"training__temperature": 0}, "training: temperature must stay above 0"),
        ({"training__temperature": [[0, 0.8], [9, 0]]}, "training: temperature must stay above 0"),
        ({"training__learning_rate": -1}, "training: learning_rate must stay above 0"),
        ({"training__dead_after": 0}, "training.dead_after: must be above 0, got 0"),
        (
            {"training__revive": True, "training__dead_after": 5, "model__layers": [{"variables": 16, "classes": 256}]},
            "training.revive with training.dead_after: 5 would reinitialise about 28 of 4096 slots of a layer that "
            "uses all alike; set dead_after to at least 9",
        ),
        ({"training__freebits": -0.1}, "training: freebits must not be negative"),
        ({"training__freebits": "2"}, "training.freebits: '2' is not a schedule: write a number, points"),
        (
            {"training__temperature": [[5, 0.8], [5, 0.1]]},
            "training.temperature: the steps of a schedule must increase",
        ),
        (
            {"training__freebits": {"start": 1.0, "end": 0.0, "steps": 9, "shape": "exponential"}},
            "training: freebits: an exponential ramp needs start and end above 0",
        ),
        ({"training__freebits": {"start": 1.0, "end": 0.0, "steps": 0}}, "training: freebits.steps must be at least 1"),
        ({"training__freebits": {"start": 1.0, "stop": 0.0}}, "training.freebits: unknown field stop"),
        ({"model__wiring": "lavae"}, "model.wiring: must be 'vae', 'skip_vae', 'lvae', 'skip_lvae' or 'biva'"),
        ({"model__dropout": 1.0}, "model.dropout: must be below 1, got 1.0"),
        ({"model__layers": []}, "model.layers: "),
        ({"model__layers": [{"variables": 0}]}, "model.layers.0.variables: "),
        ({"model__layers": [{"variables": 1, "kernel": 4}]}, "model.layers.0: kernel must be odd, got 4"),
        ({"model__layers": [{"variables": 1, "classes": 1}]}, "model.layers.0.classes: "),
        (
            {"model__layers": [{"variables": 1}, {"variables": 1, "classes": 250}]},
            "model: layers.1.classes is 250: factored keys need a perfect square (nearest: 256), or set keys: plain",
        ),
        ({"evaluation__tau": []}, "evaluation.tau: "),
        ({"evaluation__tau": [0.1, 0]}, "evaluation.tau.1: must be at least 0.000001, got 0"),
        ({"training__temperature": [[0, 0.5], [9, 1e-7]]}, "training: temperature must not fall below 1e-06"),
        (
            {"training": {"steps": 9, "temperature": "learned", "temperature_floor": 1e-7}},
            "training.temperature_floor: must be at least 0.000001, got 1e-07",
        ),
        (
            {"training": {"steps": 9, "temperature_start": 1e-7}},
            "training.temperature_start: must be at least 0.000001, got 1e-07",
        ),
        ({"training__learning_rate": 1e38}, "training: learning_rate must not exceed 1e+30"),
        ({"training__memory_learning_rate": [[0, 1.0], [9, 1e31]]}, "training: memory_learning_rate must not exceed"),
    ],
)
def test_what_is_refused(changes, said):
    assert complaint(**changes).startswith(said)


@pytest.mark.parametrize("value", [[], "text", 3, None])
def test_only_a_mapping_is_an_experiment(value):
    with pytest.raises(InputError, match=r"^here: expected a mapping of fields, got "):
        parse(Experiment, value, "here")


def test_only_plain_values_are_settings():
    assert complaint(training__steps={1, 2}).endswith("use numbers, strings, lists and mappings only")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(number):
    complaint(model__dropout=number)
    complaint(training__temperature=number)
    complaint(evaluation__tau=[number])


@given(
    st.sampled_from([("training", TrainingConfig), ("model", ModelConfig), ("evaluation", EvaluationConfig)]),
    st.data(),
)
def test_a_mistyped_field_is_named_with_the_field_that_was_meant(part, data):
    """One letter too many, at any place of any field."""
    name, kind = part
    field = data.draw(st.sampled_from([f for f in kind.model_fields if len(f) > 3]))
    place = data.draw(st.integers(0, len(field)))
    wrong = field[:place] + "q" + field[place:]
    assert complaint(**{f"{name}__{wrong}": 1}) == f"unknown field {name}.{wrong}; did you mean '{field}'?"


def test_plain_keys_and_normals_need_no_square():
    layers = [{"variables": 1, "classes": 250}]
    assert read(model={"layers": layers, "keys": "plain"}).model.layers[0].classes == 250
    assert read(model={"layers": layers, "latent": "normal"}).model.latent == "normal"


# --- Round trips and fingerprints ---------------------------------------------------------------------

EXPERIMENTS = [
    {},
    {"data": {"path": "own.npz", "binarization": "bernoulli"}},
    {"training__temperature": {"start": 0.8, "end": 0.1, "steps": 9, "shape": "exponential"}},
    {"training__temperature": [[0, 1], [7, 0.25]], "training__freebits": 0, "training__gradient_clip": 5},
    {"model__wiring": "biva", "model__blocks": "dense", "evaluation__tau": [0.5, 1]},
    {"model__layers": [{"variables": 3, "stride": 1, "kernel": 5}]},
]


@pytest.mark.parametrize("changes", EXPERIMENTS)
def test_plain_values_come_back(changes):
    experiment = read(**changes)
    again = parse(Experiment, experiment.plain(), "again")
    assert again == experiment
    assert again.plain() == experiment.plain()
    assert again.fingerprint == experiment.fingerprint


def test_fingerprints_differ():
    assert len({read(**changes).fingerprint for changes in EXPERIMENTS}) == len(EXPERIMENTS)


def test_every_setting_is_in_the_fingerprint():
    base = read()
    changed = [
        base.model_copy(update={"data": DataConfig(name="omniglot")}),
        base.model_copy(update={"training": base.training.model_copy(update={"steps": 11})}),
        base.model_copy(update={"model": base.model.model_copy(update={"layers": (LayerConfig(variables=4),)})}),
        base.model_copy(update={"evaluation": EvaluationConfig(draws=11)}),
    ]
    assert len({base.fingerprint, *(one.fingerprint for one in changed)}) == 5


def test_fingerprint_is_the_same_however_the_settings_are_written():
    """Defaults left out or written out, whole numbers with or without a point, fields in any order."""
    written = plain(training__freebits=2, training__temperature=[[0.0, 0.8], [2e5, 0.3], [400_000, 0.1]])
    written = dict(reversed(written.items())) | {"evaluation": {"tau": [0.1], "draws": 10}}
    assert parse(Experiment, written, "x").fingerprint == read().fingerprint


def test_fingerprint_does_not_change_between_versions_and_machines():
    assert fingerprint({"b": [1, 2.5, None], "a": "τ"}) == fingerprint({"a": "τ", "b": [1, 2.5, None]})
    assert fingerprint({"a": 1}) == "015abd7f5cc57a2d"
    assert re.fullmatch("[0-9a-f]{16}", read().fingerprint)
    code = "from hdvae.experiment.experiment import Experiment; "
    code += f"print(Experiment.model_validate({plain()!r}, strict=False).fingerprint)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == read().fingerprint


# --- What goes together ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"training__temperature": "learnt"},
            "training.temperature: 'learnt' is not a schedule: write a number",
        ),
        ({"training__freebits": "learned"}, "training.freebits: 'learned' is not a schedule"),
        (
            {"training__temperature": "learned", "training__temperature_floor": 0.5},
            "training: temperature_start must be above temperature_floor",
        ),
        ({"training__objective": "relaxed"}, "training.objective: must be 'surrogate', 'relaxed_elbo' or"),
        (
            {"training__objective": "relaxed_elbo", "training__estimator": "rloo"},
            "training: objective: relaxed_elbo needs relaxed samples: use estimator: concrete, since rloo is hard",
        ),
        (
            {"training__temperature": "learned", "training__estimator": "reinmax"},
            "training: temperature: learned needs relaxed samples: use estimator: concrete, since reinmax is hard",
        ),
        (
            {"training__kl": "concrete", "training__estimator": "gumbel_rao"},
            "training: kl: concrete does not go with estimator: gumbel_rao; use kl: analytic, hard or relaxed",
        ),
        (
            {"training__kl": "hard", "training__estimator": "vimco"},
            "training: kl: hard does not go with estimator: vimco; use kl: analytic",
        ),
        ({"training__estimator": "rloo", "training__estimator_samples": 1}, "training.estimator_samples: "),
        (
            {"model__latent": "normal", "training__estimator": "rloo"},
            "training.estimator: rloo is for model.latent: categorical",
        ),
        (
            {"model__latent": "normal", "training__objective": "relaxed_elbo"},
            "training.objective: relaxed_elbo is for model.latent: categorical",
        ),
        (
            {"model__latent": "normal", "training__temperature": "learned"},
            "training.temperature: learned is for model.latent: categorical",
        ),
        ({"model__decoder_scale": 0}, "model.decoder_scale"),
        ({"evaluation__kappa": "proven"}, "evaluation.kappa: must be 'certified' or 'local'"),
    ],
)
def test_what_does_not_go_together(changes, said):
    assert complaint(**changes).startswith(said)


def test_a_learned_temperature_is_read_and_written():
    experiment = read(training__temperature="learned")
    assert experiment.training.temperature == "learned"
    assert experiment.training.needs_bound
    assert parse(Experiment, experiment.plain(), "again") == experiment
    assert read(model__decoder_scale="learned").model.decoder_scale == "learned"


# --- Reads of memories ----------------------------------------------------------------------------------


def test_reads_are_dense_unless_a_race_is_asked_for():
    assert not read().model.top_m_reads
    assert read(model__reads="race").model.top_m_reads
    assert not read(model__reads="race", model__latent="normal").model.top_m_reads


@pytest.mark.parametrize(("field", "value"), [("estimator", "gumbel_rao"), ("kl", "concrete")])
def test_what_needs_all_classes_needs_dense_reads(field, value):
    large = [{"variables": 2, "classes": 1024}]
    changes = {f"training__{field}": value, "model__layers": large, "model__reads": "race"}
    assert f"training.{field}: {value} needs relaxed samples of all classes" in complaint(**changes)
    assert "set model.reads: dense" in complaint(**changes)
    assert read(**{**changes, "model__reads": "dense"}).model.reads == "dense"
    read(training__estimator="rloo", model__layers=large, model__reads="race")


def test_arrivals_are_at_most_the_draws():
    assert "arrivals is 65, but draws is 64" in complaint(model__race={"arrivals": 65})
    assert "model.race.draws" in complaint(model__race={"draws": 2000})
    assert "tolerance" in complaint(model__race={"tolerance": 0})
    assert "did you mean 'arrivals'" in complaint(model__race={"arrival": 3})
