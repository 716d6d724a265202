"""What a machine with GPUs does with a study, beside its own processor: `python -m benchmarks.gpu`.

One small study by the command of a user, on a Ray of its own: on the processor, on a GPU, on a GPU shared by two
workers (or on two), and on a GPU with the driver killed half-way and the same command again. All train the same images
with the same noise, so that their numbers differ by rounding alone. `--gpus 0` does the same without GPUs, to try it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.chaos import write_images
from benchmarks.common import Bar, report
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage

STEPS, EVERY = 400, 50
ALLOWED = 1e-3
"""Relative difference of the last valid ELBO that single precision may make over so many steps."""
STUDY = """
name: {name}
claim: A GPU changes nothing but the time.
experiment:
  data: {{path: {images}}}
  model:
    blocks: conv
    width: 16
    depth: 1
    dropout: 0.0
    layers: [{{variables: 8, classes: 64}}, {{variables: 4, classes: 16}}]
  training: {{steps: {steps}, batch_size: 32, temperature: 0.5}}
  evaluation: {{every: {every}, images: 16, draws: 4, samples: 20, tau: [0.1]}}
resources: {{workers: {workers}, gpus_per_worker: {gpus}}}
"""


@dataclass(frozen=True)
class Setting:
    """How the study is run: `killed` ends the driver once, by SIGKILL, when half of the steps are reported."""

    name: str
    workers: int = 1
    gpus: float = 0.0
    killed: bool = False


def settings(gpus: int) -> list[Setting]:
    """The settings on a machine with so many GPUs; the first is what the others are compared with."""
    one, share = (1.0, 1.0 if gpus > 1 else 0.5) if gpus else (0.0, 0.0)
    return [
        Setting("processor"),
        Setting("gpu", gpus=one),
        Setting("two-workers", workers=2, gpus=share),
        Setting("killed", gpus=one, killed=True),
    ]


def run(folder: Path, images: Path, setting: Setting) -> tuple[float, float]:
    """Run the study in a setting; returns its last valid ELBO, and the seconds that it took in all."""
    file = folder / f"{setting.name}.yaml"
    values = {"steps": STEPS, "every": EVERY, "workers": setting.workers, "gpus": setting.gpus}
    file.write_text(STUDY.format(name=setting.name, images=images, **values))
    start = time.monotonic()
    driver = drive(file)
    journal = Journal(Storage(Places.under(folder / "home").storage), f"{setting.name}/trial-0000/seed-0")
    if setting.killed:
        while driver.poll() is None and max(journal.steps(), default=0) < STEPS // 2:
            time.sleep(0.05)
        driver.kill()
        driver.wait()
        driver = drive(file)
    if driver.wait() != 0:
        raise SystemExit(f"{setting.name}: the study ended with exit code {driver.returncode}")
    if setting.killed and not list((folder / "home/studies").glob(f"{setting.name}/*/*/attempts/0002.json")):
        raise SystemExit(f"{setting.name}: the study had ended before it was killed")
    return journal.entry(STEPS).metrics["valid/elbo"], time.monotonic() - start


def drive(file: Path) -> subprocess.Popen[bytes]:
    """Start the command of a user; what goes wrong is printed."""
    command = [sys.executable, "-m", "hdvae_platform.cli", "study", "run", str(file), "--address", "local"]
    elsewhere = ("HDVAE_", "MLFLOW_", "RAY_ADDRESS")  # a team's stores are no place for this
    own = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    environment = {**own, "HDVAE_HOME": str(file.parent / "home")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def main() -> None:
    """Run all settings, print a table, and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count(), help="to use; all by default")
    options = parser.parse_args()
    if options.gpus > torch.cuda.device_count() or (options.gpus == 0 and "--gpus" not in sys.argv):
        parser.error(f"this machine has {torch.cuda.device_count()} GPUs; --gpus 0 tries the benchmark without")
    named = torch.cuda.get_device_name() if options.gpus else "no GPU"
    print(f"{options.gpus} × {named}\n| setting | valid ELBO | relative difference | seconds |\n|---|---:|---:|---:|")
    bars: dict[str, Bar] = {}
    with tempfile.TemporaryDirectory(prefix="hdvae-gpu-") as temporary:
        images = write_images(Path(temporary))
        expected: float | None = None
        for setting in settings(options.gpus):
            elbo, seconds = run(Path(temporary), images, setting)
            expected = elbo if expected is None else expected
            off = abs(elbo / expected - 1)
            print(f"| {setting.name} | {elbo:.4f} | {off:.1e} | {seconds:.0f} |", flush=True)
            if setting.name != "processor":
                bars[f"{setting.name}_off"] = {"value": off, "limit": ALLOWED}
    report("gpu", bars)


if __name__ == "__main__":
    main()
