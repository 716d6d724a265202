"""What a read of a memory costs, for every size of the memory: `python -m benchmarks.memory`.

A read is all that training does for it: noise, logits of queries and keys, the relaxed sample, the weighted sum of
values, the gradients of queries, keys and values, and the update of keys and values. 2,048 reads at a time, as in a
layer of 16 variables and a batch of 128; keys of size 8 and values of size 8; one table of values. Beside them PyPI's
`product-key-memory` with the same sizes (one head, the 32 best slots, Adam), and whole models with memories of
2⁸ and 2²⁰ slots. Ways are timed in turns, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.common import Bar, report
from hdvae.experiment.experiment import DataConfig, Experiment, LayerConfig, ModelConfig, RaceConfig, TrainingConfig
from hdvae.latents.layers import stochastic_layer
from hdvae.randomness.noise import NoiseSource
from hdvae.training.optimizer import Adamax, Group
from hdvae.training.state import TrainState
from hdvae.training.step import train_step
from hdvae.workers import ALONE

READS, BATCH, VARIABLES = 2048, 128, 16
KEY = VALUE = 8
SIZES = (2**8, 2**12, 2**16, 2**20)
ARRIVALS, TAU = 32, 0.5
HOT = 0.8
DENSE_MOST = 2**16
"""Slots up to which a dense read fits into memory."""
CPU = torch.device("cpu")
Step = Callable[[], None]


def memory_step(classes: int, reads: str, race: RaceConfig, tau: float) -> Step:
    """2,048 reads of this project's memory."""
    layer_config = LayerConfig(variables=VARIABLES, classes=classes)
    config = ModelConfig.model_validate(
        {"layers": (layer_config,), "reads": reads, "race": race, "shared_values": True, "key_size": KEY}
        | {"value_size": VALUE}
    )
    layer = stochastic_layer(layer_config, config)
    optimizer = Adamax([Group(list(layer.parameters()), 2e-3)])
    queries, wanted = torch.randn(BATCH, VARIABLES * 2 * KEY) / 2, torch.randn(BATCH, VARIABLES * VALUE)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        optimizer.forget_gradients()
        source = NoiseSource.at(CPU, torch.float32, BATCH, seed=0, purpose="benchmark", step=count)
        raw = queries.detach().requires_grad_()
        draw = layer.relax(layer.distribution(raw), layer.noise(source), tau)
        (draw.read - wanted).square().mean().backward()  # type: ignore[no-untyped-call]
        ALONE.average_gradients(layer.parameters())
        optimizer.step()

    return step


def product_key_step(classes: int) -> Step:
    """2,048 reads of PyPI's `product-key-memory`: no noise, the gradient of the whole table."""
    from product_key_memory import PKM

    memory = PKM(VALUE, heads=1, num_keys=round(classes**0.5), topk=min(ARRIVALS, round(classes**0.5)), dim_head=KEY)
    optimizer = torch.optim.Adam(memory.parameters(), foreach=True)
    x, wanted = torch.randn(1, READS, VALUE), torch.randn(1, READS, VALUE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (memory(x.detach().requires_grad_()) - wanted).square().mean().backward()
        optimizer.step()

    return step


def model_step(classes: int, latent_reads: str) -> Step:
    """A training step of a convolutional model of two layers, at the batch size of the paper."""
    layers = (LayerConfig(variables=16, classes=classes), LayerConfig(variables=8, classes=classes))
    experiment = Experiment(
        data=DataConfig(name="binarized_mnist"),
        model=ModelConfig.model_validate({"width": 32, "layers": layers, "reads": latent_reads}),
        training=TrainingConfig(steps=1, temperature=TAU),
    )
    state = TrainState.fresh(experiment, (28, 28), 0, CPU)
    batch = (torch.rand(BATCH, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.13).float()

    def step() -> None:
        train_step(state, batch)

    return step


def fastest(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Seconds of each step: the fastest of the rounds, in which all take turns; what is slower is others' work."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if i:  # the first round makes the optimiser's state
                times[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in times.items()}


def peak() -> float:
    """The most memory that this program has held, bytes; `getrusage` would count that of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def reads_table(rounds: int) -> dict[str, float]:
    """Microseconds per read of every way and size."""
    fixed, chosen = RaceConfig(draws=ARRIVALS, arrivals=ARRIVALS), RaceConfig()
    steps: dict[str, Step] = {}
    for classes in SIZES:
        steps[f"race {classes}"] = memory_step(classes, "race", fixed, TAU)
        steps[f"hot {classes}"] = memory_step(classes, "race", chosen, HOT)
        steps[f"pkm {classes}"] = product_key_step(classes)
    steps[f"dense {SIZES[0]}"] = memory_step(SIZES[0], "dense", fixed, TAU)
    seconds = fastest(steps, rounds)
    for classes in SIZES[1:]:
        if classes <= DENSE_MOST:
            step = {f"dense {classes}": memory_step(classes, "dense", fixed, TAU)}
            seconds |= fastest(step, 2 if classes == DENSE_MOST else 10)
    return {name: 1e6 * value / READS for name, value in seconds.items()}


def in_own_process(*arguments: str) -> list[float]:
    """What this module prints when it is run with these arguments: numbers; for peaks of memory of single steps."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def extra_memory(classes: int) -> None:
    """Print the bytes that the steps take beyond table, moments and row counts: run in a process of its own."""
    memory_step(16, "race", RaceConfig(draws=ARRIVALS, arrivals=ARRIVALS), TAU)()  # what libraries load and allocate
    base = peak()
    step = memory_step(classes, "race", RaceConfig(draws=ARRIVALS, arrivals=ARRIVALS), TAU)
    for _ in range(5):
        step()
    rows = classes * (4 * 3 * VALUE + 4)
    print(peak() - base - rows)


def model_memory() -> None:
    """Print the peak of a process that trains the model with a million slots, bytes."""
    step = model_step(SIZES[-1], "race")
    for _ in range(3):
        step()
    print(peak())


def main() -> None:
    """Measure, print tables and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=45, help="steps of each way of reading that are timed")
    parser.add_argument("--model-rounds", type=int, default=9, help="steps of each model that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--extra", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model-memory", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    if chosen.extra:
        return extra_memory(chosen.extra)
    if chosen.model_memory:
        return model_memory()
    return measure(chosen.rounds, chosen.model_rounds)


def measure(rounds: int, model_rounds: int) -> None:
    """Everything, with its bars."""
    cost = reads_table(rounds)
    extra = {classes: in_own_process("--extra", str(classes))[0] / 2**20 for classes in SIZES}
    print(f"microseconds per read, {READS} reads at a time; forward, backward and update")
    print(
        f"| slots | dense | race, m = {ARRIVALS}, τ = {TAU} | race as chosen at τ = {HOT} | product-key-memory |",
        end="",
    )
    print(" extra MiB of a race |\n|---:|---:|---:|---:|---:|---:|")
    for classes in SIZES:
        each = [cost.get(f"{way} {classes}") for way in ("dense", "race", "hot", "pkm")]
        cells = ["—" if value is None else f"{value:.2f}" for value in each]
        print(f"| {classes} | {' | '.join(cells)} | {extra[classes]:.0f} |", flush=True)
    gigabytes = in_own_process("--model-memory")[0] / 1e9
    models = {f"{reads} {n}": model_step(n, reads) for n, reads in ((2**8, "race"), (2**20, "race"), (2**8, "dense"))}
    seconds = fastest(models, model_rounds)
    small, large, dense = seconds["race 256"], seconds["race 1048576"], seconds["dense 256"]
    print("\nconvolutional model, 2 layers, 16 + 8 variables, 32 filters, batch 128: seconds per step")
    print(f"K = 2⁸ race {small:.3f}, dense {dense:.3f}; K = 2²⁰ race {large:.3f}; peak {gigabytes:.2f} GB")
    print(f"2²⁰ over 2⁸: {large / small:.3f}; over dense 2⁸: {large / dense:.3f}")
    report("memory", bars(cost, large / small, gigabytes))


def bars(cost: Mapping[str, float], model: float, gigabytes: float) -> dict[str, Bar]:
    """The bars; every value is at most its limit, but `dense_over_race_2e16`, which is at least."""
    small, large = cost[f"race {2**8}"], cost[f"race {2**20}"]
    return {
        "race_2e20_over_2e8": {"value": large / small, "limit": 4.0},
        "race_over_dense_2e8": {"value": small / cost[f"dense {2**8}"], "limit": 1.0},
        "race_over_pkm_2e20": {"value": large / cost[f"pkm {2**20}"], "limit": 0.75},
        "dense_over_race_2e16": {"value": cost[f"dense {2**16}"] / cost[f"race {2**16}"], "limit": 100.0},
        "model_2e20_over_2e8": {"value": model, "limit": 1.25},
        "model_gigabytes": {"value": gigabytes, "limit": 6.0},
    }


if __name__ == "__main__":
    main()
