"""Learned temperatures: where they start, and what they cannot fall below."""

import pytest
import torch

from hdvae.objectives.temperature import LearnedTemperature
from tests.hdvae.oracle import build, small_config


@pytest.mark.parametrize("wiring", ["skip_lvae", "biva"])
def test_every_layer_starts_where_it_is_told(wiring):
    model = build(small_config(wiring, 2))
    tau = LearnedTemperature(model, start=0.8, floor=0.05).tau()
    assert list(tau) == list(model.nodes)
    assert [value.item() for value in tau.values()] == pytest.approx([0.8] * len(model.nodes))


def test_no_temperature_falls_below_the_floor_and_each_has_a_gradient_of_its_own():
    model = build(small_config("skip_lvae", 3))
    temperature = LearnedTemperature(model, start=0.8, floor=0.05)
    with torch.no_grad():
        temperature.rho[0] = -50.0
    values = list(temperature.tau().values())
    assert values[0].item() == pytest.approx(0.05)
    values[1].backward()
    assert temperature.rho.grad.tolist() == pytest.approx([0.0, 0.75, 0.0])
