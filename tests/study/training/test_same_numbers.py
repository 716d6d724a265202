"""A change of structure changes no number: a small study's runs against what earlier code made of them.

`fixtures/small_study.json` was written by `python -m tests.study.training.test_same_numbers`, first with the code
before the packages were laid out in rooms. Whoever changes numbers on purpose writes it anew, and says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.images import load_data
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import Study
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec

FIXTURE = Path(__file__).parents[1] / "fixtures/small_study.json"
SMALL = {
    "blocks": "dense",
    "width": 8,
    "depth": 1,
    "layers": [{"variables": 3, "classes": 16}, {"variables": 2, "classes": 4}],
}
VARIANTS = {
    "normal": {"model.latent": "normal"},
    "categorical": {"training.temperature": [[0, 0.8], [20, 0.1]], "training.ema": 0.9},
    "top-m": {"model.reads": "race", "training.revive": True, "training.dead_after": 10},
    "conv": {"model.blocks": "conv", "model.wiring": "biva"},
    "lipschitz": {
        "model.decoder": "lipschitz",
        "training.objective": "relaxed_elbo",
        "training.temperature": "learned",
    },
    "straight_through": {"training.estimator": "straight_through"},
    "gumbel_rao": {"training.estimator": "gumbel_rao", "training.estimator_samples": 2},
    "reinmax": {"training.estimator": "reinmax", "model.wiring": "lvae"},
    "rloo": {"training.estimator": "rloo", "training.estimator_samples": 2, "training.freebits_per": "image"},
    "vimco": {"training.estimator": "vimco", "training.estimator_samples": 2, "training.patience": 3},
    "concrete": {"training.kl": "concrete", "model.wiring": "vae"},
}


def small_study(folder: Path) -> Study:
    random = np.random.RandomState(0)
    images = {split: random.randint(2, size=(n, 6, 5)).astype(np.uint8) for split, n in (("train", 64), ("valid", 24))}
    np.savez(folder / "images.npz", test=images["valid"], **images)
    return Study.model_validate_json(
        json.dumps(
            {
                "name": "small",
                "claim": "Numbers stay.",
                "experiment": {
                    "data": {"path": str(folder / "images.npz")},
                    "model": SMALL,
                    "training": {"steps": 20, "batch_size": 32, "temperature": 0.5, "learning_rate": 0.004},
                    "evaluation": {"every": 10, "images": 20, "draws": 2, "samples": 5, "tau": [0.1, 0.5]},
                },
            }
        )
    )


def outcome(folder: Path, variant: str) -> dict[str, object]:
    """Metrics of both reports, and the checksum of all tensors of the last checkpoint."""
    study = small_study(folder)
    places = Places.under(folder / "runs")
    storage = Storage(places.storage)
    experiment = study.experiment_at(VARIANTS[variant])
    attempt = Attempt(storage, run_folder("small", 0, 0), 1)
    checksum = load_data(experiment, places.home).checksum
    run(RunSpec.of(experiment, 0, attempt, places, threads=1, gpus=0, data_checksum=checksum), lambda word: None)
    journal = Journal(storage, attempt.run)
    tensors = Checkpoints(storage, attempt.run).load(20).tensors
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return {
        "metrics": {str(step): dict(sorted(journal.entry(step).metrics.items())) for step in journal.steps()},
        "tensors": digest.hexdigest(),
    }


def machine() -> str:
    """What bitwise equal numbers need to have in common."""
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_are_those_of_the_code_before(variant, tmp_path, monkeypatch):
    monkeypatch.delenv("HDVAE_STORAGE", raising=False)
    kept = json.loads(FIXTURE.read_text())
    then, now = kept["runs"][variant], outcome(tmp_path, variant)
    assert {step: list(values) for step, values in now["metrics"].items()} == {
        step: list(values) for step, values in then["metrics"].items()
    }
    for step, values in then["metrics"].items():
        for name, value in values.items():
            # Rounding differs between processors, and grows with the steps.
            assert math.isclose(now["metrics"][step][name], value, rel_tol=1e-3, abs_tol=1e-3), (step, name)
    if kept["machine"] == machine():
        assert now == then


if __name__ == "__main__":
    os.environ.pop("HDVAE_STORAGE", None)
    found = {}
    for one in VARIANTS:
        with tempfile.TemporaryDirectory() as temporary:
            found[one] = outcome(Path(temporary), one)
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1) + "\n")
    sys.stdout.write(f"{FIXTURE}\n")
