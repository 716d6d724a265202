"""Cost of a read for memories of different sizes: `python -m benchmarks.memory`.

A read includes everything that training does for it: noise, logits of queries and keys, the relaxed sample, the
weighted sum of values, the gradients of queries, keys and values, and the update of keys and values. 2,048 reads are
done at a time, as in a layer of 16 variables with a batch of 128; keys and values have size 8, and there is one table
of values. For comparison, the benchmark runs PyPI's `product-key-memory` with the same sizes (one head, the 32 best
slots, Adam), and whole models with memories of 2⁸ and 2²⁰ slots. All of them are timed in turns, so that other load on
the machine affects all of them alike.
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
"""Largest number of slots for which dense reads fit into memory."""
CPU = torch.device("cpu")
Step = Callable[[], None]


def memory_step(classes: int, reads: str, race: RaceConfig, tau: float) -> Step:
    """A step with 2,048 reads of this project's memory."""
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
        ALONE.average_rows(layer.parameters())
        optimizer.step()

    return step


def product_key_step(classes: int) -> Step:
    """A step with 2,048 reads of PyPI's `product-key-memory`, without noise, with a gradient of the whole table."""
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
    """A training step of a convolutional model with two layers, with the batch size of the paper."""
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
    """Seconds of each step in its fastest round. All steps take turns; other load can only make a round slower."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if i:  # the first round allocates the state of the optimiser
                times[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in times.items()}


def peak() -> float:
    """Peak memory of this process, bytes. `getrusage` would include that of its parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def reads_table(rounds: int) -> dict[str, float]:
    """Microseconds per read, for every kind of read and size of the memory."""
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
    """The numbers that this module prints with these arguments, in a process of its own, to measure peak memory."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def extra_memory(classes: int) -> None:
    """Print the bytes that the steps need in addition to table, moments and row counts. For a process of its own."""
    memory_step(16, "race", RaceConfig(draws=ARRIVALS, arrivals=ARRIVALS), TAU)()  # loads libraries, allocates buffers
    base = peak()
    step = memory_step(classes, "race", RaceConfig(draws=ARRIVALS, arrivals=ARRIVALS), TAU)
    for _ in range(5):
        step()
    rows = classes * (4 * 3 * VALUE + 4)
    print(peak() - base - rows)


def model_memory() -> None:
    """Print the peak memory of a process that trains the model with a million slots, bytes."""
    step = model_step(SIZES[-1], "race")
    for _ in range(3):
        step()
    print(peak())


def main() -> None:
    """Measure, and print the tables and the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=45, help="number of timed steps of each kind of read")
    parser.add_argument("--model-rounds", type=int, default=9, help="number of timed steps of each model")
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
    """Measure everything, and print it."""
    cost = reads_table(rounds)
    extra = {classes: in_own_process("--extra", str(classes))[0] / 2**20 for classes in SIZES}
    print(f"microseconds per read, {READS} reads at a time; forward, backward and update")
    print(
        f"| slots | dense | top-m, m = {ARRIVALS}, τ = {TAU} | top-m, auto, τ = {HOT} | product-key-memory |",
        end="",
    )
    print(" extra MiB of top-m |\n|---:|---:|---:|---:|---:|---:|")
    for classes in SIZES:
        each = [cost.get(f"{way} {classes}") for way in ("dense", "race", "hot", "pkm")]
        cells = ["—" if value is None else f"{value:.2f}" for value in each]
        print(f"| {classes} | {' | '.join(cells)} | {extra[classes]:.0f} |", flush=True)
    gigabytes = in_own_process("--model-memory")[0] / 1e9
    models = {f"{reads} {n}": model_step(n, reads) for n, reads in ((2**8, "race"), (2**20, "race"), (2**8, "dense"))}
    seconds = fastest(models, model_rounds)
    small, large, dense = seconds["race 256"], seconds["race 1048576"], seconds["dense 256"]
    print("\nconvolutional model, 2 layers, 16 + 8 variables, 32 filters, batch 128: seconds per step")
    print(f"K = 2⁸: top-m {small:.3f}, dense {dense:.3f}; K = 2²⁰: top-m {large:.3f}; peak {gigabytes:.2f} GB")
    print(f"2²⁰ over 2⁸: {large / small:.3f}; over dense 2⁸: {large / dense:.3f}")
    report("memory", bars(cost, large / small, gigabytes))


def bars(cost: Mapping[str, float], model: float, gigabytes: float) -> dict[str, Bar]:
    """The results with their limits: upper limits, except for `dense_over_race_2e16`, which has a lower one."""
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
