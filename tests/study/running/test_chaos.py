"""The benchmark that kills, in small: one study, and a kill of each thing that it runs on."""

from __future__ import annotations

import random

import pytest

from benchmarks import chaos
from benchmarks.postgres import binaries
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from tests.study.helpers import mlflow_server
from tests.study.helpers.commands import Command

pytestmark = pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed (no initdb)")


def drive(place, file):
    """As a user does, but for the seconds that imports take."""
    return Command("study", "run", file, environment=place.environment)


def start_server(place):
    """The same for MLflow's server."""
    artifacts = ["--artifacts-destination", str(place.folder / "artifacts")]
    where = ["--backend-store-uri", place.store, "--host", "127.0.0.1", "--port", str(place.port), "--workers", "1"]
    place.server = mlflow_server.started(*where, *artifacts)
    mlflow_server.wait_for(place.port)


def test_a_study_that_loses_everything_in_turn_ends_as_one_that_was_left_alone(nodes, monkeypatch):
    monkeypatch.setattr(chaos, "STEPS", {1: 2000})
    monkeypatch.setattr(chaos, "EVERY", 60)
    monkeypatch.setattr(chaos, "PAUSE", {1: (1.0, 5.0)})
    monkeypatch.setattr(chaos.Stand, "drive", drive)
    monkeypatch.setattr(chaos.Stand, "start_server", start_server)
    # A run that is killed is in test_kills.py.
    victims = iter([chaos.POSTGRES, chaos.NODE, chaos.MLFLOW, chaos.HEAD])
    chance = random.Random(0)
    monkeypatch.setattr(chance, "choice", lambda options: next(victims) if options == chaos.VICTIMS[1] else options[0])
    with chaos.stand(nodes) as place:
        storage = Storage(Places.under(place.folder / "home").storage)
        calm = chaos.torment(place, "calm", 1, 0, random.Random(0))
        expected = chaos.results(storage, "calm")
        story = chaos.torment(place, "stormy", 1, 4, chance)
        assert calm.violations == story.violations == []
        assert story.launches >= 2
        assert len(story.kills) == 4
        assert chaos.violations(place, "stormy", expected) == []
        other = {arm: (tensors + b"?", {}) for arm, (tensors, _) in expected.items()}
        assert len(chaos.violations(place, "stormy", other)) >= 4
