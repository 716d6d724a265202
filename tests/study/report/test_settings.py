"""The settings of the experiment, as a report states them."""

from __future__ import annotations

from dataclasses import replace

from hdvae.config import parse
from hdvae_platform.analysis.metric_names import ELBO
from hdvae_platform.report.page import html
from hdvae_platform.report.settings import all_settings, in_short
from hdvae_platform.study.study import Study
from tests.study.helpers.report_contents import PLAIN, contents


def lines_of(found):
    """The lines of the section on the experiment."""
    settings = all_settings(found.study, [arm.experiment for arm in found.arms])
    return in_short(found.study, settings, found.images)


def test_the_varied_fields_of_a_ramp_are_named():
    ramp = {"start": 1.0, "end": 0.5, "steps": 50, "shape": "linear"}
    space = {"training.temperature.end": {"choices": [0.1, 0.5]}, "training.temperature.steps": {"choices": [50, 80]}}
    experiment = {**PLAIN["experiment"], "training": {**PLAIN["experiment"]["training"], "temperature": ramp}}
    study = parse(Study, {**PLAIN, "experiment": experiment, "space": space, "search": {"method": "grid"}}, "made")
    settings = all_settings(study, [study.experiment_at({path: each["choices"][0] for path, each in space.items()})])
    assert settings["training.temperature"] == "1.0→end (varied) over steps (varied), linear"


def test_the_experiment_is_stated():
    found = contents(
        {"model.width": {"choices": [8, 16]}, "training.freebits": {"low": 0.1, "high": 4.0, "log": True}},
        [{"model.width": 8, "training.freebits": 1.0}],
        [[{ELBO: -1.0}]],
        search={"method": "random", "trials": 9},
    )
    lines = lines_of(replace(found, images=200))
    assert lines["data"] == "mnist5k"
    assert lines["network"] == (
        "wiring skip_lvae, latent categorical, blocks conv, width varied, depth 3, dropout 0.5"
    ), "varied though one arm has begun"
    assert lines["layers"] == "z_1: variables 4, classes 16"
    assert lines["training"].startswith("steps 100, batch_size 128, temperature 0.5, freebits varied, ")
    assert "every 1000 steps on 200 images of the validation split, with M = 10 draws for each" in lines["evaluation"]
    assert "iw_elbo with S = 100" in lines["evaluation"]
    assert lines["evaluation"].endswith("τ = 0.1")
    assert lines["varied"] == "model.width: 8 | 16; training.freebits: 0.1 to 4, log"
    assert lines["search"] == "random, 9 parameter sets, seeds 0; maximize valid/elbo"
    assert "on at most 1000 images" in lines_of(found)["evaluation"]
    page = html(found, [])
    assert "<dt>training</dt><dd>steps 100, batch_size 128" in page
    assert "<td>training.estimator_samples</td>" in page, "the full list"
    assert "surrogate are at τ = 0.1 unless" in page


def test_settings_that_differ_between_arms_are_varied():
    """Also those that no path of the space names: a preset sets many."""
    layer = {"variables": 4, "classes": 16}
    found = contents(
        {"model.layers": {"choices": [[layer], [layer, layer]]}},
        [{"model.layers": [layer]}, {"model.layers": [layer, layer]}],
        [[{ELBO: -1.0}], [{ELBO: -2.0}]],
    )
    assert lines_of(found)["layers"] == "varied"
    one = contents({}, [{}, {}], [[{ELBO: -1.0}], [{ELBO: -2.0}]])
    longer = one.arms[1].experiment.training.model_copy(update={"steps": 200})
    one.arms[1].experiment = one.arms[1].experiment.model_copy(update={"training": longer})
    assert lines_of(one)["training"].startswith("steps varied, batch_size 128")
