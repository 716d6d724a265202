"""Caveats of settings."""

from __future__ import annotations

import pytest

from hdvae.config import parse
from hdvae.experiment.experiment import Experiment
from hdvae_platform.study.caveats import MEDIAN_NEEDS, caveats_of_experiment, caveats_of_study
from hdvae_platform.study.study import Study


def experiment(latent="categorical", **training):
    """Batches of 128: 20 visits of each of 256 slots take 40 steps, of each of 4,096 slots 640."""
    layers = [{"variables": 2, "classes": 256}, {"variables": 2, "classes": 4096}]
    plain = {"data": {"name": "mnist5k"}, "model": {"latent": latent, "layers": layers}}
    plain |= {"training": {"batch_size": 128, "steps": 640, **training}, "evaluation": {"every": 100}}
    return parse(Experiment, plain, "experiment")


def test_revival_that_comes_too_late_has_a_caveat():
    (caveat,) = caveats_of_experiment(experiment(revive=True))
    assert caveat == (
        "revive: training.revive does nothing for memories of 4,096 slots: a slot is dead after 640 steps without use, "
        "but training has 640; train for longer, or lower training.dead_after"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"revive": True, "steps": 641},
        {"revive": True, "dead_after": 19},
        {"revive": True, "latent": "normal"},
    ],
)
def test_revival_in_time_or_not_asked_for_has_none(settings):
    assert caveats_of_experiment(experiment(**settings)) == []


RANGE = {"training.freebits": {"low": 0.0, "high": 2.0}}
TWO = {"training.freebits": {"choices": [0.0, 2.0]}}


def study(space=RANGE, steps=1000, images=100, every=100, **changes):
    plain = {
        "name": "s",
        "claim": "None.",
        "experiment": {
            "data": {"name": "mnist5k"},
            "model": {"layers": [{"variables": 2, "classes": 16}]},
            "training": {"steps": steps, "temperature": 0.5},
            "evaluation": {"every": every, "images": images},
        },
        "space": space,
        **changes,
    }
    return parse(Study, plain, "study")


def found(study, machine=None):
    return caveats_of_study(study, 500, machine)


@pytest.mark.parametrize(
    ("method", "start"),
    [("tpe", 3), ("gp", 3), ("nsga2", 4), ({"tpe": {"startup_trials": 20}}, 20), ({"nsga2": {"population": 6}}, 6)],
)
def test_a_search_that_ends_within_its_random_start(method, start):
    (caveat,) = found(study(search={"method": method, "trials": start}))
    name = method if isinstance(method, str) else next(iter(method))
    assert f"{name} draws its first {start} trials at random, and this study has {start}" in caveat
    assert found(study(search={"method": method, "trials": start + 1})) == []
    assert found(study(search={"method": "random", "trials": 3})) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": TWO, "confirm": {"top": 3}}, "top is 3, but the study has 2 trials"),
        ({"every": 1001}, "evaluation.every is 1,001, but training has 1,000 steps"),
        ({"images": 501}, "evaluation.images is 501, but there are 500 validation images"),
        ({"search": {"method": "random", "trials": 9, "pruner": "asha"}, "every": 1000}, "it never acts"),
        ({"search": {"method": "random", "trials": MEDIAN_NEEDS, "pruner": "median"}}, "prunes no trial before 5"),
    ],
)
def test_what_cannot_have_the_effect_that_was_asked_for(changes, words):
    search = {"method": "grid"} if changes.get("space") else {"method": "random", "trials": 9}
    (caveat,) = found(study(**{"search": search, **changes}))
    assert words in caveat


def test_what_has_its_effect_has_no_caveat():
    confirmed = study(TWO, images=500, every=1000, confirm={"top": 2})
    assert found(confirmed) == []
    pruned = {"method": "random", "trials": MEDIAN_NEEDS + 1, "pruner": "median"}
    assert found(study(search=pruned)) == []


def test_runs_for_which_the_machine_has_no_room():
    machine = {"CPU": 4, "GPU": 1}

    def of(**resources):
        return found(study(TWO, resources=resources), machine)

    assert of(concurrent=4) == of(concurrent=2, cpus_per_worker=2) == []
    assert of(concurrent=5) == ["resources: 5 runs at a time were asked for; there is room for 4"]
    (caveat,) = of(gpus_per_worker=2)
    assert "a run needs 1 CPU and 2 GPU" in caveat
    assert found(study(TWO, resources={"concurrent": 5})) == [], "on a cluster this is not known"


RAMP = {"start": 0.8, "end": 0.1, "steps": 600}


@pytest.mark.parametrize(
    ("pruner", "words"),
    [
        (
            {"asha": {"grace": 1000}},
            "from step 1,000 on, and the next evaluation is at step 1,000 of 1,000",
        ),
        ({"asha": {"grace": 901}}, "the next evaluation is at step 1,000 of 1,000: it never acts"),
        ({"asha": {"grace": 100}}, "from step 100 on, but training.freebits ends at step 600"),
    ],
)
def test_a_pruner_that_never_acts_or_does_not_wait_for_the_schedules(pruner, words):
    search = {"method": "random", "trials": 9, "pruner": pruner}
    schedules = {"training.temperature": {"choices": [0.5]}, "training.freebits": {"choices": [RAMP]}}
    (caveat,) = found(study(schedules, search=search, every=100))
    assert words in caveat
    search = {"method": "random", "trials": 9, "pruner": "asha"}
    assert found(study(schedules, search=search, every=100)) == []


def test_a_pruner_that_waits_for_a_schedule_as_long_as_the_training_never_acts():
    space = {"training.temperature": {"choices": [[[0, 0.8], [1000, 0.1]]]}}
    (caveat,) = found(study(space, search={"method": "random", "trials": 9, "pruner": "asha"}, every=100))
    assert "from step 1,000 on, where training.temperature ends" in caveat
    assert "it never acts; lower search.pruner.asha.grace" in caveat
