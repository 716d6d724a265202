"""Importing the library changes nothing outside it."""

import subprocess
import sys

CODE = """
import logging, os, pkgutil, importlib, warnings
import numpy, pyarrow.compute, pyarrow.parquet, pydantic, safetensors.torch, scipy.special, torch, torch.distributed
import torch.nn.utils.parametrizations, torch.func

def state():
    levels = {name: logging.getLogger(name).level for name in sorted(logging.root.manager.loggerDict)}
    threads = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    random = hash(bytes(torch.get_rng_state().tolist())), hash(str(numpy.random.get_state()))
    return dict(os.environ), list(warnings.filters), levels, logging.root.level, threads, random

before = state()
import hdvae
names = [module.name for module in pkgutil.walk_packages(hdvae.__path__, "hdvae.")]
for name in names:
    importlib.import_module(name)
after = state()
print(len(names), [i for i, (one, other) in enumerate(zip(before, after)) if one != other])
"""


TORCH_FREE = (
    "hdvae.config, hdvae.data.loading, hdvae.evaluation.metrics, hdvae.experiment.experiment, "
    "hdvae.experiment.presets, hdvae.randomness.seeds, hdvae.randomness.shares, hdvae.training.run_files"
)


def test_modules_that_commands_read_need_no_torch():
    code = f"import sys, {TORCH_FREE}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_importing_every_module_changes_nothing_outside():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    count, _, changed = done.stdout.strip().partition(" ")
    assert int(count) > 40
    assert changed == "[]"
