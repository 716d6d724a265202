"""The networks of the paper's tables."""

import pytest

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.experiment import presets
from hdvae.experiment.experiment import Experiment


def experiment(name):
    return parse(Experiment, presets.merged(presets.PAPER, presets.preset(name)), name)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_a_valid_experiment_of_the_paper(name):
    stated = presets.preset(name)
    assert {f"{part}.{key}" for part in stated for key in stated[part]} == set(presets.STATED)
    found = experiment(name)
    assert found.model.wiring == "skip_lvae"
    assert (found.model.blocks, found.model.width, found.model.depth, found.model.dropout) == ("conv", 64, 3, 0.5)
    assert found.model.latent == ("normal" if name.endswith("-normal") else "categorical")
    training = found.training
    assert (training.batch_size, training.freebits, training.learning_rate) == (128, 2.0, 2e-3)
    assert training.memory_learning_rate == 2e-2
    assert training.temperature == ((0, 0.8), (200_000, 0.3), (400_000, 0.1))


def sizes(name):
    return [(layer.variables, layer.classes) for layer in experiment(name).model.layers]


def test_table_2():
    assert sizes("table2-L1") == [(16, 256)]
    assert sizes("table2-L2") == [(16, 256), (8, 64)]
    assert sizes("table2-L5-normal") == [(16, 256), (8, 64), (4, 16), (4, 16), (4, 16)]


def test_table_3():
    assert sizes("table3") == [(16, 256)] * 6


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("total", [12, 24, 48, 96])
def test_table_4_splits_all_variables_as_evenly_as_possible(depth, total):
    found = sizes(f"table4-L{depth}-N{total}")
    counts = [variables for variables, _ in found]
    assert len(counts) == depth
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)
    assert {classes for _, classes in found} == {256}


def test_unknown_presets_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'table2-L3'"):
        presets.preset("table2-3")


def test_a_preset_lies_under_the_fields_that_name_it():
    written = {"preset": "table2-L3", "data": {"name": "omniglot"}, "model": {"latent": "normal"}}
    found = presets.expanded(written)
    assert "preset" not in found
    assert found["data"] == {"name": "omniglot"}
    assert found["model"]["latent"] == "normal"
    assert len(found["model"]["layers"]) == 3
    assert presets.expanded({"model": {}}) == {"model": {}}
