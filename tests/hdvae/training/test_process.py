"""Settings of a process that trains, in processes of their own: what is set holds for the rest of one."""

import platform
import subprocess
import sys

import pytest

MEMORY = """
import resource, sys, torch
from hdvae.training.process import keep_freed_memory
if sys.argv[1] == "keeps":
    assert keep_freed_memory()
def step():
    tensors = [torch.ones(n * 2**20) for n in (1, 4, 12, 1)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * 18 * 2**20 * 4 // 4096


def faults(how):
    """Page faults of ten steps with tensors of 4 to 48 MiB."""
    done = subprocess.run([sys.executable, "-c", MEMORY, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_next_step_uses_what_one_has_freed():
    assert faults("default") > PAGES / 2, "this test shows nothing if the default keeps it as well"
    assert faults("keeps") < PAGES / 10, "one large tensor may move once"


def test_another_c_library_is_left_alone(monkeypatch):
    import hdvae.training.process as process

    monkeypatch.setattr(process.ctypes, "CDLL", lambda _: object())
    assert not process.keep_freed_memory()


DENORMALS = """
import torch
from hdvae.training.process import prepare_process
torch.set_num_threads(2)
prepare_process()
small = torch.full((4_000_000,), 1e-30, requires_grad=True)
product = small * 1e-10
product.sum().backward()
print((product != 0).sum().item(), (small.grad * 1e-30 != 0).sum().item())
"""


def test_denormal_numbers_are_zero_on_all_threads():
    done = subprocess.run([sys.executable, "-c", DENORMALS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]
