"""How many rows go through the network at once, and whether their memory is what it was thought to be."""

import json
import subprocess
import sys

import pytest
import torch

from hdvae.evaluation import memory
from hdvae.evaluation.memory import MOST_ROWS, SHARE, bytes_of_row, memory_of, rows_at_once
from tests.hdvae.oracle import build, small_config

CPU = torch.device("cpu")
SCRIPT = """
import json, sys
import torch
from hdvae.config import parse
from hdvae.evaluation import evaluation, memory
from hdvae.experiment.experiment import EvaluationConfig, ModelConfig
from hdvae.network.model import HDVAE
from hdvae.training.costs import REFERENCES, resident_peak
settings, rows = json.loads(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
model = HDVAE(parse(ModelConfig, settings, "model"), (28, 28))
images = torch.zeros(rows, 28, 28, dtype=torch.uint8)
config = EvaluationConfig(draws=1, samples=2, tau=(0.5,))
evaluation.evaluate(model, images[:1], config, 0, importance=True)
evaluation.rows_at_once = lambda model: rows
REFERENCES.write_text("5")
before = resident_peak()
evaluation.evaluate(model, images, config, 0, importance=True)
print((resident_peak() - before) / rows / memory.bytes_of_row(model))
"""
LAYERS = [{"variables": 8, "classes": 64}, {"variables": 4, "classes": 16}]
LARGE = [{"variables": 4, "classes": 4096}]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of the memory cannot be begun again here")
@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"blocks": "conv", "width": 32, "depth": 2, "layers": LAYERS}, 64),
        ({"blocks": "dense", "width": 16, "depth": 1, "layers": LARGE}, 256),
        ({"blocks": "dense", "width": 16, "depth": 1, "layers": LARGE, "reads": "race"}, 1024),
        ({"blocks": "conv", "width": 32, "depth": 1, "layers": LAYERS, "latent": "normal"}, 64),
    ],
    ids=["convolutions", "classes", "top-m reads", "normal"],
)
def test_a_row_needs_no_more_memory_than_is_reckoned_with(settings, rows):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(settings), str(rows)], capture_output=True, text=True, check=True
    )
    assert 0.1 < float(done.stdout) < 1.1


def test_rows_take_a_share_of_the_memory(monkeypatch):
    model = build(small_config("skip_lvae", 2))
    each = bytes_of_row(model)
    for there, rows in ((None, MOST_ROWS), (10**12, MOST_ROWS), (int(100 * each / SHARE), 64), (0, 1)):
        monkeypatch.setattr(memory, "memory_of", lambda device, there=there: there)
        assert rows_at_once(model) == rows


def test_the_memory_is_that_of_machine_or_container(monkeypatch, tmp_path):
    files = {name: tmp_path / name for name in ("MEMINFO", "LIMIT")}
    for name, file in files.items():
        monkeypatch.setattr(memory, name, file)
    assert memory_of(CPU) is None
    files["MEMINFO"].write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    assert memory_of(CPU) == 4000 * 1024
    files["LIMIT"].write_text("max\n")
    assert memory_of(CPU) == 4000 * 1024
    files["LIMIT"].write_text("2000000\n")
    assert memory_of(CPU) == 2_000_000
