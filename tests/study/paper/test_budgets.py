"""The studies that the paper is, at each budget."""

from __future__ import annotations

import dataclasses

import pytest

from hdvae.errors import InputError
from hdvae.experiment.presets import preset
from hdvae_platform.paper.budgets import BUDGETS, STUDIED, TARGETS, budget_named, network, studies, timed_experiment
from hdvae_platform.paper.printed import TABLES, networks

every_budget = pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)


@every_budget
@pytest.mark.parametrize("target", STUDIED)
def test_every_cell_is_a_valid_experiment_of_the_network_that_it_names(target, budget):
    wanted = studies(target, budget)
    assert wanted
    for data, study in wanted.items():
        assert study.name.startswith(f"paper-{STUDIED[target]}")
        assert study.name.endswith(budget.name)
        known = networks(TABLES[STUDIED[target]])[data]
        cells = [params["preset"] for params in study.grid()]
        assert cells == [name for name in known if budget.runs(name)]
        for name in cells:
            layers = study.experiment_at({"preset": name}).model.layers
            wanted_layers = [(layer["variables"], layer["classes"]) for layer in preset(name)["model"]["layers"]]
            assert [(layer.variables, layer.classes) for layer in layers] == wanted_layers


def test_figures_show_the_studies_of_the_tables():
    for budget in BUDGETS.values():
        assert studies("figure1", budget) == studies("table4", budget)
        of_table1 = studies("table1", budget)
        assert studies("figure2", budget).items() <= of_table1.items()


def test_the_full_budget_is_the_papers():
    full = BUDGETS["full"]
    assert {data: len(study.grid()) for data, study in studies("table1", full).items()} == {
        "binarized_mnist": 6,
        "caltech101_silhouettes": 6,
        "fashion_mnist": 6,
        "omniglot": 6,
    }
    (study,) = studies("table4", full).values()
    model, training = study.experiment.model, study.experiment.training
    assert (model.blocks, model.width, model.depth, model.dropout) == ("conv", 64, 3, 0.5)
    assert (training.batch_size, training.freebits, training.learning_rate) == (128, 2.0, 2e-3)
    assert training.temperature == ((0, 0.8), (200_000, 0.3), (400_000, 0.1))
    assert (full.images, full.settings("table1")["samples"], full.settings("table4")["samples"]) == (None, 1000, 1)


def test_reduced_budgets_say_what_is_reduced():
    full = network(timed_experiment("table3", BUDGETS["full"]))
    for name in ("smoke", "cpu"):
        for study in studies("table4", BUDGETS[name]).values():
            words = network(study.experiment)
            assert words != full
            assert f"width {study.experiment.model.width}" in words
            assert f"{study.experiment.training.steps:,} steps" in words
            assert "learning rate 0.004" in words
            assert "learning rate 0.002" in full


def test_smoke_takes_no_download_and_the_others_the_papers_data():
    assert {study.experiment.data.name for study in studies("table1", BUDGETS["smoke"]).values()} == {"mnist5k"}
    for name in ("cpu", "full"):
        for target in STUDIED:
            for data, study in studies(target, BUDGETS[name]).items():
                assert study.experiment.data.name == data


def test_each_budget_has_studies_of_its_own():
    """A name stands for a definition: one study of two budgets would be refused as changed."""
    other = dataclasses.replace(BUDGETS["smoke"], name="other")
    for target in STUDIED:
        found = [study for budget in (*BUDGETS.values(), other) for study in studies(target, budget).values()]
        assert len({study.name for study in found}) == len(found)
    assert set(TARGETS) == {"table1", "table3", "table4", "figure1", "figure2"}


def test_an_unknown_budget_is_refused():
    with pytest.raises(InputError, match="no budget smok; did you mean 'smoke'"):
        budget_named("smok")
