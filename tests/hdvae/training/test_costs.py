"""What training costs."""

from mmap import PAGESIZE, mmap

import pytest
import torch

import hdvae.training.costs as costs
from hdvae.evaluation.metrics import COSTS
from hdvae.training.costs import MB, REFERENCES, Costs, resident_peak, utilization_of
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
    with mmap(-1, 200 * MB) as memory:  # not by `malloc`, which may keep what is freed
        for page in range(0, len(memory), PAGESIZE):
            memory[page] = 1
    peak = meter.measured()["system/memory_peak_mb"]
    assert before + 190 < peak < before + 250
    assert peak == pytest.approx(resident_peak() / MB, rel=0.01)
    if not REFERENCES.exists():
        pytest.skip("this system keeps the peak of a process for its whole life")
    assert Costs(torch.device("cpu"), batch_size=1).measured()["system/memory_peak_mb"] < peak - 150


def test_a_gpu_is_looked_at_once_a_second_while_steps_are_made(monkeypatch):
    now, busy = 0.0, iter([80.0, 60.0, 10.0])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now)
    monkeypatch.setattr(costs, "utilization_of", lambda device: lambda: next(busy))
    meter = Costs(torch.device("cpu"), batch_size=16)
    for _ in range(9):
        now += 0.25
        meter.count_step()
    assert meter.measured()["system/gpu_utilization_percent"] == 70
    now += 100  # an evaluation
    meter.start()
    now += 0.5
    meter.count_step()
    assert "system/gpu_utilization_percent" not in meter.measured(), "no second has passed"


def test_it_is_not_needed_that_a_gpu_tells():
    assert utilization_of(torch.device("cpu")) is None
    found = utilization_of(torch.device("cuda"))
    assert found is None or 0 <= found() <= 100


def test_every_report_has_costs_that_are_no_metrics():
    _, session = run(experiment_of())
    assert len(session.costs) == 3
    for spent in session.costs:
        assert spent.keys() == {name for name in COSTS if "gpu" not in name}
        assert all(value > 0 for value in spent.values())
    assert not any(COSTS.keys() & metrics.keys() for _, metrics in session.reports)
