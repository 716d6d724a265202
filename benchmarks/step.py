"""How near to the machine's limit is a training step? `python -m benchmarks.step [--before COMMIT]`.

Steps of the networks of the paper (table 2 with three layers, table 3 with six, both also Gaussian) and of the first
study are timed beside their convolutions and matrix products alone, each at its shapes in its best form (channels
first, channels last, or a matrix product): no step of these sizes can be faster than those. With `--before`, the
library of an earlier commit takes the same steps. Every network has a process of its own (`benchmarks/stepping.py`);
the processes take turns, and medians are compared, so that other load meets all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Bar, report
from hdvae.network.precision import precision_caveat
from hdvae_platform.cluster.environment import of_workers

ROOT = Path(__file__).parents[1]
NETWORKS = {
    "conv L3": "table2-L3",
    "conv L3 Gaussian": "table2-L3-normal",
    "conv L6": "table3",
    "dense": "dense",
    "dense Gaussian": "dense-normal",
}
"""Names in the table, and what `benchmarks/stepping.py` calls them."""
MEASURED = ("conv L3", "conv L6", "dense")
SMALL = {"width": 8, "depth": 1}
"""The convolutional networks of `--tiny`."""


class Stepper:
    """A process that takes a step when it is asked to.

    Attributes:
        megabytes: the memory that its steps need beside what was there before.
        seconds: of each step so far.
    """

    def __init__(self, settings: Mapping[str, Any], library: Path) -> None:
        environment = {**os.environ, **of_workers(), "PYTHONPATH": str(library)}
        environment["OMP_NUM_THREADS"] = str(settings["threads"])
        command = [sys.executable, str(ROOT / "benchmarks" / "stepping.py"), json.dumps(settings)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.megabytes = json.loads(self._line())["megabytes"]
        self.seconds: list[float] = []

    def step(self) -> None:
        """Take a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks.step: a process that takes steps ended with exit code {self._process.wait()}")
        return line

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def measured(
    networks: Sequence[str], before: Path | None, options: argparse.Namespace
) -> dict[str, dict[str, Stepper]]:
    """Time each network in turns: its steps `now`, its `products` alone, and its steps with the library `before`.

    Convolutional networks also take steps with `bfloat16` products, on a processor that has those. Networks are
    measured one after another, with the Gaussian one of the same size beside the discrete one.
    """
    out: dict[str, dict[str, Stepper]] = {}
    for name in networks:
        settings: dict[str, Any] = {"preset": NETWORKS[name], "batch": options.batch, "threads": options.threads}
        if options.tiny:
            settings["model"] = SMALL
        with ExitStack() as stack:

            def start(
                library: Path, stack: ExitStack = stack, settings: dict[str, Any] = settings, **changes: Any
            ) -> Stepper:
                stepper = Stepper({**settings, "alone": False, **changes}, library)
                stack.callback(stepper.close)
                return stepper

            own = {"now": start(ROOT), "products": start(ROOT, alone=True)}
            if f"{name} Gaussian" in NETWORKS:
                own["Gaussian"] = start(ROOT, preset=NETWORKS[f"{name} Gaussian"])
            if name.startswith("conv") and multiplies_bfloat16():
                own["bfloat16"] = start(ROOT, training={"precision": "bfloat16"})
            if before is not None:
                own["before"] = start(before)
            for _ in range(options.rounds if name.startswith("conv") else 10 * options.rounds):
                for stepper in own.values():
                    stepper.step()
        out[name] = own
        print(row(name, own), flush=True)
    return out


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return precision_caveat("bfloat16", torch.device("cpu")) is None


COLUMNS = [
    *("network", "products", "step", "products ÷ step", "Gaussian", "÷ Gaussian", "MB", "MB, Gaussian"),
    *("before", "before ÷ step", "bfloat16", "bfloat16 ÷ step"),
]
HEAD = f"""\
milliseconds, median of the steps; memory beside what was there before them

| {" | ".join(COLUMNS)} |
|---|{"---:|" * (len(COLUMNS) - 1)}"""


def row(name: str, own: Mapping[str, Stepper]) -> str:
    """A line of the table."""
    now, products = own["now"], own["products"]
    cells = [name, f"{1e3 * products.median:.1f}", f"{1e3 * now.median:.1f}", f"{products.median / now.median:.2f}"]
    gaussian = own.get("Gaussian")
    cells += [f"{1e3 * gaussian.median:.1f}", f"{now.median / gaussian.median:.3f}"] if gaussian else ["—"] * 2
    cells += [f"{now.megabytes:.0f}", f"{gaussian.megabytes:.0f}" if gaussian else "—"]
    for other in (own.get("before"), own.get("bfloat16")):
        cells += [f"{1e3 * other.median:.1f}", f"{other.median / now.median:.2f}"] if other else ["—"] * 2
    return f"| {' | '.join(cells)} |"


def bars(results: Mapping[str, Mapping[str, Stepper]]) -> dict[str, Bar]:
    """The results with their limits: lower ones for `…_of_ceiling`, upper ones for the others."""
    out: dict[str, Bar] = {}
    for name, own in results.items():
        now, products = own["now"], own["products"]
        if name.startswith("conv"):
            out[f"{name.replace(' ', '_')}_of_ceiling"] = {"value": products.median / now.median, "limit": 0.78}
        else:
            out["dense_over_products"] = {"value": now.median / products.median, "limit": 2.2}
        if name == "conv L3":
            time, memory = now.median / own["Gaussian"].median, now.megabytes / own["Gaussian"].megabytes
            out["discrete_over_gaussian_time"] = {"value": time, "limit": 1.05}
            out["discrete_over_gaussian_memory"] = {"value": memory, "limit": 1.12}
        if name == "conv L3" and "bfloat16" in own:
            out["bfloat16_over_float32"] = {"value": own["bfloat16"].median / now.median, "limit": 0.55}
        if "before" in own:
            out[f"{name.replace(' ', '_')}_before_over_now"] = {"value": own["before"].median / now.median}
    return out


def library_of(commit: str, folder: Path) -> Path:
    """The library of a commit, in a folder."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "hdvae"], capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"benchmarks.step: --before {commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def main() -> None:
    """Time everything, and print a table and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--rounds", type=int, default=7, help="timed steps of each; ten times as many of the dense ones"
    )
    parser.add_argument("--networks", nargs="+", choices=MEASURED, default=MEASURED)
    parser.add_argument("--before", help="a commit whose library takes the same steps")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the benchmark")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        before = library_of(options.before, Path(folder)) if options.before else None
        print(HEAD)
        results = measured(options.networks, before, options)
    report("step", bars(results))


if __name__ == "__main__":
    main()
