"""What `benchmarks.step` compares a training step with: all of its products, in forms that give the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks import stepping
from benchmarks.step import multiplies_bfloat16
from hdvae.network.blocks import ImageConvolution
from hdvae.network.model import HDVAE

ROOT = Path(__file__).parents[2]
TINY = {"preset": "table2-L3", "model": {"width": 4, "depth": 1}, "batch": 2, "threads": 1}


def recorded():
    step = stepping.training(TINY)
    with stepping.Recorder() as recorder:
        step()
    return recorder.products


def test_every_convolution_of_a_step_is_recorded_forward_and_backward():
    products, experiment = recorded(), stepping.experiment(TINY)
    parts = HDVAE(experiment.model, stepping.IMAGE).modules()
    maps = [m for m in parts if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(m, ImageConvolution)]
    for kind in (stepping.aten.convolution.default, stepping.aten.convolution_backward.default):
        assert sum(count for (func, _), count in products.items() if func is kind) == len(maps)


def test_all_forms_of_a_convolution_give_the_same_numbers():
    kinds = set()
    for func, described in recorded():
        if func not in (stepping.aten.convolution.default, stepping.aten.convolution_backward.default):
            continue
        args, kwargs = stepping._made(json.loads(described))
        first, *others = [act() for act in stepping.forms(func, args, kwargs)]
        kinds.add(len(others))
        for other in others:
            for one, two in zip(flat(first), flat(other), strict=True):
                torch.testing.assert_close(one.sum(), two.sum(), rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(one.square().sum(), two.square().sum(), rtol=1e-3, atol=1e-3)
    assert kinds == {2, 3}, "some as matrix products too"


def flat(made):
    """Results, whatever their layout."""
    return [made] if isinstance(made, torch.Tensor) else [one for one in made if one is not None]


def test_a_small_run_ends_with_its_ratios():
    command = [sys.executable, "-m", "benchmarks.step", "--tiny", "--batch", "2", "--rounds", "1", "--threads", "1"]
    done = subprocess.run(
        [*command, "--networks", "conv L3", "dense"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    bars = json.loads(done.stdout.splitlines()[-1])["bars"]
    assert bars.keys() - {"bfloat16_over_float32"} == {
        "conv_L3_of_ceiling",
        "dense_over_products",
        "discrete_over_gaussian_time",
        "discrete_over_gaussian_memory",
    }
    assert ("bfloat16_over_float32" in bars) == multiplies_bfloat16()
    assert all(bar["value"] > 0 for bar in bars.values())
