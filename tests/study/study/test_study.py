from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from hdvae.errors import InputError
from hdvae_platform.store.catalogue import check_name
from hdvae_platform.study.changes import first_difference
from hdvae_platform.study.checks import check_images
from hdvae_platform.study.file import load_study, preset_study
from hdvae_platform.study.settled import settled
from hdvae_platform.study.space import count_sets, set_at
from hdvae_platform.study.study import Study


def refused(file: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as fault:
        load_study(file, overrides)
    told = str(fault.value).splitlines()
    if file.exists() and not overrides:
        assert all(re.match(rf"{re.escape(str(file))}(:\d+)?: ", line) for line in told), told
    return told[0]


def expected(**changes):
    """An expectation of the small study, changed."""
    groups = {"higher": {"model.latent": "normal"}, "than": {"model.latent": "categorical"}}
    return {"metric": "valid/elbo", **groups, **changes}


BAD = [
    ({"experiment/training/freebit": 1.0}, ["experiment.training.freebit", "did you mean 'freebits'"]),
    ({"serch": {}}, ["serch", "did you mean 'search'"]),
    ({"experiment/model/layers/0/clases": 4}, ["clases", "did you mean 'classes'"]),
    ({"experiment/training/steps": "many"}, ["experiment.training.steps", "integer", "many"]),
    ({"experiment/training/steps": True}, ["experiment.training.steps", "integer"]),
    ({"experiment/training/steps": 0}, ["experiment.training.steps", "at least 1"]),
    ({"experiment/model/wiring": "lave"}, ["experiment.model.wiring", "'lvae'", "lave"]),
    ({"experiment/model/layers/0/variables": 0}, ["layers.0.variables", "at least 1"]),
    ({"experiment/model/layers/1/classes": 250}, ["layers.1.classes", "250", "nearest: 256"]),
    ({"experiment/model/layers": []}, ["experiment.model.layers", "at least 1"]),
    ({"experiment/training/temperature": -1}, ["temperature", "above 0"]),
    ({"experiment/training/temperature": "warm"}, ["experiment.training.temperature", "not a schedule"]),
    ({"experiment/training/temperature": [[0, 1], [0, 2]]}, ["temperature", "must increase"]),
    ({"experiment/training/temperature": {"start": 1, "end": 2}}, ["temperature", "steps is missing"]),
    ({"confirm": {"images": "others"}}, ["confirm.images", "'same' or 'held_out'", "others"]),
    ({"confirm": {"images": "held_out"}, "experiment/evaluation/part": "search"}, ["leave out evaluation.part"]),
    ({"confirm": {"images": "held_out"}, "space/evaluation.part": {"choices": ["all"]}}, ["leave out evaluation.part"]),
    ({"experiment/evaluation/tau": []}, ["experiment.evaluation.tau", "at least 1"]),
    ({"experiment/data": {}}, ["experiment.data", "name", "path"]),
    ({"experiment/data": {"name": "mnist5k", "binarization": "threshold"}}, ["binarization", "binary already"]),
    ({"search/metric": "test/elbo"}, ["not be tuned on the test split", "valid/elbo"]),
    ({"search/metric": "valid/elbow"}, ["valid/elbow", "did you mean 'valid/elbo'"]),
    ({"search/pruner": "asah"}, ["search.pruner", "'asha'"]),
    ({"search": {"also": {"valid/relaxation_bais": "minimize"}}}, ["valid/relaxation_bais", "'valid/relaxation_bias'"]),
    ({"search": {"also": {"test/elbo": "maximize"}}}, ["not be tuned on the test split", "valid/elbo"]),
    ({"search": {"also": {"valid/relaxation_bias@tau=9": "minimize"}}}, ["not measured", "@tau=0.5"]),
    ({"search": {"also": {"valid/elbo": "minimize"}}}, ["search.also", "valid/elbo is search.metric already"]),
    ({"search": {"also": {"valid/kl": "least"}}}, ["search.also.valid/kl", "'maximize'"]),
    ({"search": {"also": {"valid/kl": "minimize"}, "pruner": "asha"}}, ["search.pruner", "search.also"]),
    ({"search": {"pruner": "asha", "metric": "valid/iw_elbo"}}, ["measured at the end only", "valid/elbo"]),
    ({"search": {"pruner": "asha", "metric": "valid/iw_elbo@S=5"}}, ["measured at the end only", "valid/elbo"]),
    (
        {"search/constraints": {"valid/relaxation_bais": {"at_most": 1}}},
        ["search.constraints", "'valid/relaxation_bias'"],
    ),
    ({"search/constraints": {"test/elbo": {"at_most": 1}}}, ["search.constraints", "not be tuned on the test split"]),
    ({"search/constraints": {"valid/relaxation_bias@tau=9": {"at_most": 1}}}, ["not measured", "@tau=0.5"]),
    ({"search/constraints": {"valid/kl": {"most": 1}}}, ["search.constraints.valid/kl.most", "'at_most'"]),
    ({"search/constraints": {"valid/kl": {}}}, ["search.constraints.valid/kl", "give at_most, at_least, or both"]),
    ({"search/constraints": {"valid/kl": 0.5}}, ["search.constraints.valid/kl: write {at_most: 0.5} or"]),
    ({"search/constraints": {"valid/kl": {"at_most": 1, "at_least": 2}}}, ["at_least 2 is above at_most 1"]),
    (
        {"search": {"pruner": "asha", "constraints": {"valid/iw_elbo": {"at_least": -90}}}},
        ["valid/iw_elbo is measured at the end only"],
    ),
    ({"start_from": "first"}, ["start_from", "write STUDY/TRIAL, such as first/2"]),
    ({"start_from": "first/best"}, ["start_from", "write STUDY/TRIAL, such as first/2"]),
    ({"start_from": "small/0"}, ["start_from: small/0 is a trial of this study"]),
    ({"start_from": "first/0"}, ["space.model.latent: the network is that of first/0"]),
    ({"start_from": "first/0", "confirm": {}}, ["confirm: fresh seeds have no checkpoint in first/0"]),
    ({"search/pruner": {"asha": {"garce": 5}}}, ["search.pruner.asha.garce", "'grace'"]),
    ({"search/pruner": {"asha": {"grace": 0}}}, ["search.pruner.asha.grace", "at least 1"]),
    ({"search/pruner": {"asha": {"reduction": 1}}}, ["search.pruner.asha.reduction", "at least 2"]),
    ({"search/pruner": {"median": {"reduction": 4}}}, ["unknown field search.pruner.median.reduction"]),
    ({"search/pruner": {"asha": {}, "median": {}}}, ["search.pruner", "give one of asha, median"]),
    ({"search/pruner": {"hyperband": {}}}, ["unknown field search.pruner.hyperband"]),
    ({"search/pruner": 3}, ["search.pruner", "a mapping"]),
    ({"search": {"pruner": "asha"}, "space/evaluation.every": {"choices": [5, 10]}}, ["evaluation.every is varied"]),
    ({"search": {"pruner": "asha"}, "experiment/training/patience": 2}, ["training.patience", "one of the two"]),
    ({"search": {"pruner": "median"}, "space/training.patience": {"choices": [2, 3]}}, ["training.patience"]),
    ({"search": {"method": {"tpe": {"population": 4}}, "trials": 9}}, ["unknown field search.method.tpe.population"]),
    ({"search": {"method": {"nsga2": {"population": 1}}, "trials": 9}}, ["population", "at least 2"]),
    ({"search": {"method": {"grid": {"startup_trials": 4}}}}, ["search.method.grid.startup_trials"]),
    ({"search/hours": 0}, ["search.hours", "above 0"]),
    ({"expect": [{"metric": "valid/elbo"}]}, ["expect.0", "give the metric and one of: higher, than; "]),
    ({"expect": [{"metric": "valid/elbo", "grow_with": "a"}]}, ["expect.0.grow_with", "did you mean 'grows_with'"]),
    ({"expect": [{"metric": "valid/elbo", "within": 0}]}, ["expect.0.within", "above 0"]),
    ({"expect": [expected(metric="elbo")]}, ["expect.0.metric: unknown metric elbo; did you mean 'valid/elbo'?"]),
    ({"expect": [expected(metric="valid/kl/layer_9")]}, ["expect.0.metric: valid/kl/layer_9 is not measured"]),
    ({"expect": [expected(metric="test/elbo")]}, ["expect.0.metric", "not be tuned on the test split: use valid/elbo"]),
    ({"expect": [expected(higher={"model.latnt": "normal"})]}, ["model.latnt is not varied", "'model.latent'"]),
    ({"expect": [expected(higher={"model.latent": "norml"})]}, ['model.latent is never "norml"', "'normal'"]),
    ({"expect": [expected(than={"model.latent": "normal"})]}, ["expect.0", "both sides are"]),
    ({"expect": [expected(higher={})]}, ["expect.0.higher", "at least 1"]),
    (
        {"expect": [{"metric": "valid/elbo", "equal": {}, "to": {"model.latent": "normal"}, "within": 1.0}]},
        ["expect.0.equal", "at least 1"],
    ),
    ({"expect": [{"metric": "valid/elbo", "grows_with": ""}]}, ["expect.0.grows_with", "at least 1"]),
    (
        {"expect": [expected(higher={"model.latent": "normal", "training.temperature": 0.1})]},
        ['no parameter set has {"model.latent": "normal", "training.temperature": 0.1}'],
    ),
    (
        {"expect": [expected(higher={"training.temperature": 0.1})]},
        ['{"model.latent": "categorical", "training.temperature": 0.1} is on both sides'],
    ),
    (
        {
            "space": {
                "model.latent": {"choices": ["normal", "categorical"]},
                "model.width": {"choices": [4], "when": {"model.latent": "normal"}},
                "model.depth": {"choices": [1, 2]},
                "training.freebits": {"choices": [1.0], "when": {"model.depth": 2}},
                "training.learning_rate": {"choices": [0.01, 0.02], "when": {"model.depth": 1}},
            },
            "expect": [
                expected(
                    higher={"training.learning_rate": 0.01, "model.latent": "normal"},
                    than={"training.freebits": 1.0, "model.latent": "categorical"},
                )
            ],
        },
        ["no two parameter sets of these groups share their other settings"],
    ),
    ({"expect": [{"metric": "valid/elbo", "grows_with": "model.width"}]}, ["model.width is not varied: it is 8"]),
    (
        {"expect": [{"metric": "valid/elbo", "falls_with": "model.latent"}]},
        ['model.latent is not a number but "normal"'],
    ),
    (
        {"expect": [{"metric": "valid/elbo", "grows_with": "model.layers.*.variable"}]},
        ["expect.0: there is no setting model.layers.*.variable", "did you mean 'model.layers.1.variables'"],
    ),
    ({"name": "my study"}, ['name: "my study" is no name', "e.g. my-study"]),
    ({"seeds": 3}, ["seeds: must be a list, got 3: write [3]"]),
    ({"space/training.freebits": [0, 1]}, ["space.training.freebits: must be a mapping", "write {choices: [0, 1]}"]),
    ({"experiment/model": [8]}, ["experiment.model: must be a mapping of fields, got [8]"]),
    ({"search/metric": "valid/ELBO"}, ["search.metric", "did you mean 'valid/elbo'"]),
    (
        {"experiment/training/temperature": [[0, 0.8]], "space/training.temperature.end": {"choices": [0.1]}},
        ["training.temperature is [[0, 0.8]]: to vary its end, set it to {start, end, steps, shape}"],
    ),
    ({"confirm": {"top": 0}}, ["confirm.top", "at least 1"]),
    ({"confirm": {"sed": 1}}, ["confirm.sed", "did you mean 'seeds'"]),
    ({"search/method": "gird"}, ["search.method", "'grid'"]),
    ({"search/method": "random"}, ["search.trials is missing"]),
    ({"space/model.latent": {"choices": []}}, ["space.model.latent", "choices is empty"]),
    ({"space/model.latent": {"choices": ["normal", "normal"]}}, ["space.model.latent", "twice"]),
    ({"space/model.latent": {"choices": ["gaussian"]}}, ["model.latent", "'normal'", "gaussian"]),
    ({"space/model.latnt": {"choices": [1]}}, ["space.model.latnt", "did you mean 'latent'"]),
    ({"space/preset": {"choices": ["table2-L9"]}}, ["no preset table2-L9", "did you mean"]),
    ({"space/model.layers.7.classes": {"choices": [4]}}, ["model.layers has no field 7"]),
    ({"space/model.layers.0.classes": {"choices": [4, 5]}}, ["layers.0.classes is 5", "nearest: 4"]),
    ({"space/training.freebits": {"low": 2.0, "high": 1.0}}, ["space.training.freebits", "low 2 is above high 1"]),
    ({"space/training.freebits": {"low": 0.0, "high": 1.0, "log": True}}, ["log range", "above 0"]),
    ({"space/training.freebits": {"low": 1.0}}, ["both low and high"]),
    ({"space/training.freebits": {}}, ["either choices or low and high"]),
    ({"space/training.freebits": {"low": 1.0, "high": 2.0}}, ["a grid needs choices"]),
    ({"space/training.temperature/when": {"model.latnt": "categorical"}}, ["when", "did you mean 'model.latent'"]),
    ({"space/training.temperature/when": {"model.latent": "binary"}}, ["model.latent is never"]),
    ({"search/metric": "valid/elbo@tau=0.3"}, ["valid/elbo@tau=0.3 is not measured"]),
    ({"search/metric": "valid/kl/layer_9"}, ["valid/kl/layer_9 is not measured", "did you mean 'valid/kl/layer_2'"]),
    ({"search/metric": "train/kl/layer_9"}, ["train/kl/layer_9 is not measured", "did you mean 'train/kl/layer_2'"]),
    ({"search/metric": "train/clipped"}, ["train/clipped is not measured"]),
    ({"search": {"also": {"train/tau/layer_1": "minimize"}}}, ["train/tau/layer_1 is not measured"]),
    (
        {"search/metric": "valid/perplexity/layer_1"},
        ['valid/perplexity/layer_1 is not measured with model.latent = "normal": choose a metric that every run has'],
    ),
    (
        {
            "search": {"method": "random", "trials": 2, "metric": "train/slots_used/layer_1"},
            "space": {
                "model.wiring": {"choices": ["lvae", "biva"]},
                "training.freebits": {"low": 0.1, "high": 2.0, "when": {"model.wiring": "lvae"}},
            },
        },
        ['train/slots_used/layer_1 is not measured with model.wiring = "biva"'],
    ),
    (
        {
            "experiment/model/keys": "plain",
            "space": {
                "model.keys": {"choices": ["plain", "factored"]},
                "model.layers.0.classes": {"choices": [50, 49]},
            },
        },
        ["layers.0.classes is 50", "factored"],
    ),
    ({"seeds": []}, ["seeds", "at least 1"]),
    ({"seeds": [1, 1]}, ["seeds", "twice"]),
    ({"seeds": list(range(1001))}, ["seeds", "at most 1000 items"]),
    ({"search/trials": 10**9}, ["search.trials", "at most 100000"]),
    ({"resources": {"cpus_per_worker": 10**9}}, ["resources.cpus_per_worker", "at most 10000"]),
    ({"space/training.freebits": {"choices": list(range(1001))}}, ["space.training.freebits", "at most 1000 items"]),
    (
        {"space": {f"training.{name}": {"choices": list(range(1, 401))} for name in ("freebits", "steps", "patience")}},
        ["space: a grid of 64000000 parameter sets; at most 10000 are allowed"],
    ),
    ({"resources": {"workers": 0}}, ["resources.workers", "at least 1"]),
    ({"resources": {"workers": [1, 4]}}, ["resources.workers", "is not a number", "elastic: {least: 1, most: 4}"]),
    ({"resources": {"workers": "auto"}}, ["resources.workers", "is not a number"]),
    ({"resources": {"workers": 2, "elastic": {"most": 4}}}, ["resources", "either workers or elastic"]),
    ({"resources": {"elastic": {"least": 4, "most": 2}}}, ["resources.elastic", "most is 2, but least is 4"]),
    ({"resources": {"elastic": {"least": 3, "most": 4}}}, ["batch_size is 16", "multiple of 3: take 15 or 18"]),
    ({"name": "../up"}, ["name", '"../up" is no name', "e.g. up"]),
    ({"claim": None}, ["claim is missing"]),
    ({"experiment/preset": "table2-3"}, ["experiment.preset: no preset table2-3", "did you mean 'table2-L3'"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[str(next(iter(c))) + str(i) for i, (c, _) in enumerate(BAD)])
def test_bad_input_is_refused_in_one_line_that_names_it(edit, changes, words):
    line = refused(edit(changes))
    for word in words:
        assert word in line, line


def test_what_is_expected_may_be_of_settings_that_only_some_arms_have(edit):
    """A Gaussian has no temperature; a third layer is in some of the arms."""
    assert load_study(edit({"expect": [expected()]})).expect
    layer = {"variables": 1, "classes": 4}
    layers = {"choices": [[layer, layer], [layer, layer, {**layer, "variables": 2}], [layer, layer, layer]]}
    metrics = [{"metric": "valid/kl/layer_3", "grows_with": "model.layers.2.variables"}]
    assert load_study(edit({"space": {"model.layers": layers}, "expect": metrics})).expect


def test_missing_file_names_the_nearest(study_file):
    assert "did you mean 'small.yaml'" in refused(study_file.with_name("smal.yaml"))


def test_not_yaml(study_file):
    study_file.write_text("a: [1,\nb: }")
    assert "small.yaml:2: not valid YAML" in refused(study_file)
    study_file.write_text("just text")
    assert "mapping" in refused(study_file)
    study_file.write_text("when: 2026-01-01")
    assert "unknown" in refused(study_file) or "date" in refused(study_file)


def test_a_fault_of_yaml_is_shown_with_its_line(study_file):
    study_file.write_text("name: a\n\tclaim: b\n")
    line = refused(study_file)
    assert 'small.yaml:2: not valid YAML: a line begins with a tab; indent it with spaces: "claim: b"' in line
    study_file.write_text("name: a\n  claim: b\n")
    line = refused(study_file)
    assert "small.yaml:2: not valid YAML: mapping values are not allowed here; is the line indented as" in line
    assert line.rstrip().endswith('"claim: b"')


def test_a_file_that_says_nothing_and_a_folder(study_file):
    study_file.write_text("  \n")
    assert "is empty; a study has at least name, claim and experiment" in refused(study_file)
    assert "is a folder, not a study file; known: small.yaml" in refused(study_file.parent)


def test_overrides_reach_into_the_space(study_file):
    """The names of its fields have dots themselves."""
    study = load_study(study_file, ["space.training.temperature.choices=[0.2, 0.3]", "training.steps=7"])
    assert study.space["training.temperature"].choices == (0.2, 0.3)
    assert study.experiment.training.steps == 7
    with pytest.raises(InputError, match=r"space.training.temperature has no field choises; did you mean 'choices'"):
        load_study(study_file, ["space.training.temperature.choises=[0.2]"])


def test_every_fault_is_told_with_its_line(edit):
    file = edit(
        {
            "experiment/training/stepz": 5,
            "experiment/training/batch_size": "big",
            "experiment/model/layers/1/classes": 250,
            "seeds": 3,
            "search/metod": "grid",
        }
    )
    with pytest.raises(InputError) as fault:
        load_study(file)
    text = file.read_text().splitlines()
    told = str(fault.value).splitlines()
    assert len(told) == 5
    for line in told:
        where, number, message = re.fullmatch(r"(.*):(\d+): (?:unknown field )?(.*)", line).groups()
        assert where == str(file)
        field = re.match(r"[\w.]+", message)[0].rpartition(".")[2]
        assert text[int(number) - 1].strip(" -").startswith(field), line


def test_all_faults_of_the_study_as_a_whole_are_told(edit):
    changes = {
        "seeds": [1, 1],
        "search": {"method": "tpe", "metric": "valid/elbow", "pruner": "asha"},
        "space/training.freebits": {"low": 2.0, "high": 1.0},
        "space/training.ema": {"choices": [0.5, 2.0]},
        "experiment/training/patience": 3,
    }
    with pytest.raises(InputError) as fault:
        load_study(edit(changes))
    told = [re.sub(r"^.*?:\d+: ", "", line).partition(":")[0] for line in str(fault.value).splitlines()]
    assert sorted(told) == [
        "search.metric",
        "search.pruner",
        "search.trials is missing",
        "seeds",
        "space.training.ema",
        "space.training.freebits",
    ]


def test_faults_of_the_study_as_a_whole_have_their_line_too(edit):
    file = edit({"space/training.freebits": {"low": 2.0, "high": 1.0}})
    (number,) = (n for n, line in enumerate(file.read_text().splitlines(), 1) if "training.freebits" in line)
    assert refused(file).startswith(f"{file}:{number}: space.training.freebits: low 2 is above high 1")


def test_what_is_no_file_of_text_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert refused(tmp_path / "pipe.yaml").endswith("is no regular file")
    (tmp_path / "large.yaml").write_bytes(b"# " + bytes(2_000_000))
    assert "larger than 1 MB" in refused(tmp_path / "large.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    assert "cannot be read" in refused(tmp_path / "latin.yaml")


def test_grid_is_the_product_with_conditions_and_no_duplicates(study_file):
    grid = load_study(study_file).grid()
    assert grid == [
        {"model.latent": "normal"},
        {"model.latent": "categorical", "training.temperature": 0.1},
        {"model.latent": "categorical", "training.temperature": [[0, 0.8], [20, 0.1]]},
    ]


def test_conditions_on_conditional_dimensions(edit):
    file = edit(
        {
            "space/training.freebits": {
                "choices": [1.0, 2.0],
                "when": {"training.temperature": [0.1]},
            }
        }
    )
    grid = load_study(file).grid()
    assert [params.get("training.freebits") for params in grid] == [None, 1.0, 2.0, None]


def test_trials_limit_a_grid(edit):
    study = load_study(edit({"search/trials": 2}))
    assert study.parameter_sets() == 2


def test_a_search_tries_no_more_sets_than_the_space_has(edit):
    search = {"search": {"method": "random", "trials": 10}}
    assert load_study(edit(search)).parameter_sets() == 3, "of which two under a condition"
    assert load_study(edit({"space/model.width": {"low": 4, "high": 6}})).parameter_sets() == 9
    assert load_study(edit({"search/trials": 4})).parameter_sets() == 4
    assert load_study(edit({"search": {"method": "tpe", "hours": 1}})).parameter_sets() == 9
    wide = {"low": 1, "high": 10**9}
    assert count_sets(load_study(edit({"space/training.steps": wide})).space) == 9e9
    real = {"low": 0.5, "high": 1.0, "when": {"model.latent": "normal"}}
    assert load_study(edit({"space/training.freebits": real})).parameter_sets() is None
    one = {"space": {"training.freebits": {"low": 0.5, "high": 0.5}}}
    assert load_study(edit(one)).parameter_sets() == 1


def test_parameters_merge_in_one_place(study_file):
    study = load_study(study_file)
    merged = study.experiment_at({"model.layers.0.classes": 9, "training.temperature": [[0, 1], [5, 0.5]]})
    assert merged.model.layers[0].classes == 9
    assert merged.model.layers[1] == study.experiment.model.layers[1]
    assert merged.training.temperature == ((0, 1.0), (5, 0.5))


def test_half_of_the_validation_images_are_held_out_of_the_search(edit):
    study = load_study(edit({"confirm": {"images": "held_out"}}))
    searched, confirming = (study.experiment_at({}, kind) for kind in ("search", "confirmation"))
    assert (searched.evaluation.part, confirming.evaluation.part) == ("search", "held_out")
    assert study.experiment_at({}) == searched
    assert searched.fingerprint != confirming.fingerprint != study.experiment.fingerprint
    assert study.plan()["confirm"] == {"top": 3, "seeds": 5, "images": "held_out"}
    rebuilt = Study.rebuilt(study.name, study.definition(), study.plan())
    assert rebuilt.experiment_at({}, "confirmation") == confirming
    same = load_study(edit({"confirm": {"images": "same"}}))
    assert {same.experiment_at({}, kind).evaluation.part for kind in ("search", "confirmation")} == {"all"}
    none = load_study(edit({"confirm": None}))
    difference = first_difference(none.definition(), study.definition())
    assert difference == 'confirm.images was "same", is "held_out"', "it changes what the search measures"
    assert first_difference(none.definition(), same.definition()) is None


def test_one_validation_image_cannot_be_divided(edit):
    study = load_study(edit({"confirm": {"images": "held_out"}}))
    check_images(study, 2)
    with pytest.raises(InputError, match="held_out needs two validation images, and there is 1"):
        check_images(study, 1)


def test_ranges_over_the_fields_of_a_ramp(edit):
    file = edit(
        {
            "experiment/training/temperature": {"start": 0.8, "end": 0.1, "steps": 10},
            "space": {"training.temperature.start": {"low": 0.5, "high": 1.0}},
            "search": {"method": "random", "trials": 3},
        }
    )
    study = load_study(file)
    assert study.experiment_at({"training.temperature.start": 0.6}).training.temperature.start == 0.6


def test_every_whole_number_of_a_range_is_checked(edit):
    file = edit(
        {
            "space": {"model.layers.0.classes": {"low": 4, "high": 16}},
            "search": {"method": "random", "trials": 3},
        }
    )
    assert "layers.0.classes is 5" in refused(file)


def test_overrides(study_file):
    study = load_study(study_file, ["training.steps=7", "seeds=[5]", "experiment.data.binarization=none"])
    assert study.experiment.training.steps == 7
    assert study.seeds == (5,)
    assert "did you mean 'steps'" in refused(study_file, "training.stepz=7")
    assert "path=value" in refused(study_file, "training.steps")
    assert "integer" in refused(study_file, "training.steps=x")


def test_definition_and_plan_rebuild_the_study(study_file):
    study = load_study(study_file)
    assert Study.rebuilt(study.name, study.definition(), study.plan()) == study


def test_a_study_of_several_metrics_is_rebuilt_from_its_record(edit):
    study = load_study(
        edit({"search": {"also": {"valid/relaxation_bias@tau=0.5": "minimize", "valid/kl": "maximize"}}})
    )
    assert list(study.search.objectives) == ["valid/elbo", "valid/relaxation_bias@tau=0.5", "valid/kl"]
    recorded = json.loads(json.dumps(study.definition()))
    assert Study.rebuilt(study.name, recorded, study.plan()) == study
    other = load_study(edit({"search": {"also": {"valid/kl": "maximize"}}}))
    assert other.definition() != study.definition()


CATEGORICAL = {"model.latent": "categorical", "training.temperature": 0.1, "training.freebits": 1}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ([{"model.latnt": "normal"}], ["start_with.0: model.latnt is not varied", "'model.latent'"]),
        ([{"model.latent": "normal"}], ["start_with.0: training.freebits is missing"]),
        ([CATEGORICAL, {"model.latent": "categorical"}], ["start_with.1: training.temperature is missing"]),
        ([{**CATEGORICAL, "model.latent": "normal"}], ["temperature varies only when model.latent", "leave it out"]),
        ([{**CATEGORICAL, "training.temperature": 0.2}], ["temperature = 0.2 is not in the space: it is one of 0.1, "]),
        ([{**CATEGORICAL, "training.freebits": 4.5}], ["freebits = 4.5 is not in the space: it is from 0.1 to 4"]),
        ([{**CATEGORICAL, "training.freebits": "much"}], ['freebits = "much" is not in the space']),
        (
            [CATEGORICAL, {**CATEGORICAL, "training.freebits": 1.0}],
            ["start_with.1: is the same as search.start_with.0"],
        ),
        ([{"model.latent": "normal", "training.freebits": n} for n in (1, 2, 3, 4)], ["4 sets are more than", "3"]),
        ([3], ["search.start_with.0", "a mapping"]),
    ],
)
def test_sets_to_start_with_are_in_the_space(edit, sets, words):
    search = {"method": "tpe", "trials": 3, "start_with": sets}
    said = refused(edit({"space/training.freebits": {"low": 0.1, "high": 4.0}, "search": search}))
    assert all(word in said for word in words), said


def test_a_grid_has_no_sets_to_start_with(edit):
    assert "leave start_with out" in refused(edit({"search/start_with": [{"model.latent": "normal"}]}))


@pytest.mark.parametrize(
    ("method", "trials", "start"),
    [("tpe", 4, 3), ("tpe", 20, 5), ("gp", 400, 10), ("nsga2", 10, 4), ("nsga2", 40, 8), ("nsga2", 999, 20)],
)
def test_a_search_has_the_random_start_of_the_trials_with_which_it_was_begun(edit, method, trials, start):
    study = load_study(edit({"search": {"method": method, "trials": trials}}))
    begun = settled(study)
    assert begun.search.method.start == start
    recorded = Study.rebuilt(study.name, json.loads(json.dumps(begun.definition())), begun.plan())
    assert recorded == begun
    more = load_study(edit({"search/trials": trials + 500}))
    assert settled(more, recorded).definition() == recorded.definition()
    other = load_study(edit({"search/method": "nsga2" if method == "tpe" else "tpe"}))
    assert settled(other, recorded).search.method == settled(other).search.method
    asked = {"population": start + 1} if method == "nsga2" else {"startup_trials": start + 1}
    changed = settled(load_study(edit({"search/method": {method: asked}})), recorded)
    assert first_difference(recorded.definition(), changed.definition()).startswith("method.")


TO_300 = [[0, 0.8], [300, 0.1]]


@pytest.mark.parametrize(
    ("changes", "grace"),
    [
        ({}, 10),
        ({"experiment/training/freebits": {"start": 0.0, "end": 2.0, "steps": 70}}, 70),
        ({"experiment/training/learning_rate": [[0, 1e-3], [55.5, 1e-3], [70.5, 1e-4], [90, 1e-4]]}, 71),
        ({"experiment/training/freebits": {"start": 2.0, "end": 2.0, "steps": 70}}, 10),
        ({"space/training.temperature": {"choices": [0.1, TO_300]}}, 300),
        ({"space/training.temperature": {"choices": [0.1, TO_300], "when": {"model.latent": "normal"}}}, 10),
        ({"experiment/training/temperature": TO_300, "experiment/model/latent": "normal"}, 10),
        (
            {
                "experiment/training/temperature": {"start": 0.8, "end": 0.1, "steps": 40},
                "space/training.temperature.steps": {"low": 40, "high": 200},
            },
            200,
        ),
        ({"search/pruner": {"asha": {"grace": 30}}, "experiment/training/temperature": TO_300}, 30),
        ({"search/pruner": {"median": {"grace": 30}}}, 30),
    ],
)
def test_a_pruner_waits_for_the_end_of_the_schedules_that_the_trials_use(edit, changes, grace):
    space = {"model.latent": {"choices": ["categorical", "normal"]}}
    if "experiment/model/latent" in changes:
        space = {"training.freebits": {"choices": [1.0, 2.0]}}
    plain = {"search": {"method": "random", "trials": 9, "pruner": "asha"}, "space": space}
    study = settled(load_study(edit({**plain, "experiment/training/temperature": 0.5, **changes})))
    assert study.search.pruner.grace == grace
    assert settled(study) == study


def test_constraints_are_part_of_the_definition(edit):
    limits = {"valid/kl": {"at_most": 3, "at_least": 1.5}, "valid/elbo": {"at_least": -90.0}}
    study = load_study(edit({"search/constraints": limits}))
    assert study.search.measured == ["valid/elbo", "valid/kl"]
    recorded = json.loads(json.dumps(study.definition()))
    assert Study.rebuilt(study.name, recorded, study.plan()) == study
    other = load_study(edit({"search/constraints": {"valid/kl": {"at_most": 4}}}))
    assert "constraints.valid/kl.at_most was 3.0, is 4.0" in str(first_difference(recorded, other.definition()))


def test_fresh_seeds_are_fixed_and_not_those_of_the_search(edit):
    study = load_study(edit({"confirm": {}}))
    seeds = study.confirmation_seeds()
    assert len(set(seeds)) == 5
    assert not set(seeds) & set(study.seeds)
    assert Study.rebuilt(study.name, study.definition(), study.plan()) == study
    taken = study.model_copy(update={"seeds": (0, seeds[1])})
    assert taken.confirmation_seeds()[:4] == [seeds[0], *seeds[2:]]
    assert (study.confirmations(2), study.confirmations(9)) == (10, 15)


def test_what_a_record_is_too_old_to_have_is_its_default(edit):
    changes = {"search": {"pruner": "median"}, "expect": [expected()], "confirm": {}}
    study, plain = load_study(edit(changes)), load_study(edit({"search": {}, "expect": [], "confirm": None}))
    definition, plan = study.definition(), study.plan()
    assert Study.rebuilt(study.name, definition, plan) == study
    for record, names in ((definition, ("pruner", "also")), (plan, ("expect", "confirm", "hours"))):
        for name in names:
            del record[name]
    assert Study.rebuilt(study.name, definition, plan) == plain


def test_set_at_leaves_the_value_its_own():
    plain = {"a": [1]}
    value = [2]
    set_at(plain, "a", value, "x")
    value.append(3)
    assert plain == {"a": [2]}


def test_a_study_can_name_a_preset(edit):
    study = load_study(edit({"experiment/preset": "table2-L3", "experiment/model": {"blocks": "dense"}}))
    assert [layer.variables for layer in study.experiment.model.layers] == [16, 8, 4]
    assert study.experiment.model.blocks == "dense"
    assert "did you mean 'table2-L3'" in refused(edit({"experiment/preset": "table2-3"}))


def test_a_preset_over_a_file_and_alone(study_file):
    alone = preset_study("table3-normal", ["training.steps=5"])
    assert alone.experiment.training.steps == 5
    assert len(alone.experiment.model.layers) == 6
    over = preset_study("table2-L1", base=load_study(study_file))
    assert over.name == "small-table2-L1"
    assert over.experiment.model.blocks == "dense"
    assert over.experiment.model.layers[0].variables == 16


def test_a_preset_in_the_space_is_put_under_the_other_settings(edit):
    space = {"model.layers.0.classes": {"choices": [4, 16]}, "preset": {"choices": ["table2-L3", "table2-L3-normal"]}}
    study = load_study(edit({"space": space}))
    params = {"model.layers.0.classes": 4, "preset": "table2-L3"}
    assert params in study.grid()
    found = study.experiment_at(params).model
    assert [(layer.variables, layer.classes) for layer in found.layers] == [(16, 4), (8, 64), (4, 16)]
    assert (found.latent, found.blocks, found.width) == ("categorical", "dense", 8)
    assert study.experiment_at({"preset": "table2-L3-normal"}).model.latent == "normal"


def test_the_hours_of_a_search_are_over_when_they_have_passed(edit):
    study = load_study(edit({"search/hours": 2}))
    assert [study.hours_are_over(begun=1000.0, now=1000.0 + passed) for passed in (0, 7199, 7200)] == [
        False,
        False,
        True,
    ]
    assert not load_study(edit({"search/hours": None})).hours_are_over(begun=0.0, now=1e12)


def test_faults_are_told_together_in_the_order_of_the_lines(edit):
    changes = {
        "space/training.free_bits": {"low": 0, "log": True},
        "space/model.layers.*.classes": {"choices": [4, 9]},
        "expect": [expected(metric="valid/elbow"), expected(than={"model.latnt": "normal"})],
        "search/metric": "valid/bias",
    }
    with pytest.raises(InputError) as fault:
        load_study(edit(changes))
    told = str(fault.value).splitlines()
    for words in (
        "space.training.free_bits: training has no field free_bits; did you mean 'freebits'?",
        "space.model.layers.*.classes: a star is for expect and --trend; name one setting here, e.g. model.layers.0",
        "expect.0.metric: unknown metric valid/elbow",
        "expect.1: model.latnt is not varied; did you mean 'model.latent'?",
        "search.metric: unknown metric valid/bias; did you mean 'valid/relaxation_bias'?",
    ):
        assert any(words in line for line in told), told
    lines = [int(line.split(":")[1]) for line in told]
    assert lines == sorted(lines)


def test_all_wrong_values_of_the_sets_to_start_with_are_told(edit):
    wrong = [{"model.latent": "normal", "training.freebits": 9.0}, {"model.latnt": "normal"}]
    search = {"method": "tpe", "trials": 3, "start_with": wrong}
    with pytest.raises(InputError) as fault:
        load_study(edit({"space/training.freebits": {"low": 0.1, "high": 4.0}, "search": search}))
    told = str(fault.value)
    assert "start_with.0: training.freebits = 9.0 is not in the space" in told
    assert "start_with.1: model.latnt is not varied" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiment/training/temperature": {"choices": [1, 2]}}, "what varies stands under space"),
        ({"experiment/training/steps": {"choices": [1, 2]}}, "what varies stands under space"),
        (
            {"expect": [{"metric": "valid/elbo", "grows_with": "model.layers.classes"}]},
            "no setting model.layers.classes; did you mean 'model.layers.*.classes'?",
        ),
    ],
)
def test_the_right_place_is_named(edit, changes, words):
    assert words in refused(edit(changes))


def test_an_unknown_data_set_is_told_with_the_other_faults(edit):
    file = edit({"experiment/data": {"name": "mnist5"}, "seeds": [1, 1]})
    with pytest.raises(InputError) as fault:
        load_study(file, (), check_name)
    data, seeds = sorted(re.sub(r"^.*?:\d+: ", "", line) for line in str(fault.value).splitlines())
    assert data == "experiment.data.name: unknown data set 'mnist5'; did you mean 'mnist5k'?"
    assert seeds.startswith("seeds: ")
