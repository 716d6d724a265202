"""What training costs."""

import pytest
import torch

import hdvae.training.costs as costs
from hdvae.evaluation.metrics import COSTS
from hdvae.training.costs import MB, REFERENCES, Costs, resident_peak
from tests.hdvae.training.sessions import experiment_of, run


def test_images_per_second_are_those_of_the_steps_since_the_last_report(monkeypatch):
    now = 0.0
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now)
    meter = Costs(torch.device("cpu"), batch_size=16)
    for _ in range(10):
        now += 0.5
        meter.count_step()
    assert meter.measured()["train/images_per_second"] == pytest.approx(10 * 16 / 5)
    now += 100  # an evaluation
    meter.start()
    now += 2
    meter.count_step()
    assert meter.measured()["train/images_per_second"] == pytest.approx(16 / 2)


def test_the_peak_of_the_memory_stays_until_another_run_begins():
    meter = Costs(torch.device("cpu"), batch_size=1)
    before = meter.measured()["system/memory_peak_mb"]
    torch.ones(50_000_000)  # 200 MB, freed at once
    peak = meter.measured()["system/memory_peak_mb"]
    assert before + 190 < peak < before + 250
    assert peak == pytest.approx(resident_peak() / MB, rel=0.01)
    if not REFERENCES.exists():
        pytest.skip("this system keeps the peak of a process for its whole life")
    assert Costs(torch.device("cpu"), batch_size=1).measured()["system/memory_peak_mb"] < peak - 150


def test_every_report_has_costs_that_are_no_metrics():
    _, session = run(experiment_of())
    assert len(session.costs) == 3
    for spent in session.costs:
        assert spent.keys() == {name for name in COSTS if "gpu" not in name}
        assert all(value > 0 for value in spent.values())
    assert not any(COSTS.keys() & metrics.keys() for _, metrics in session.reports)
