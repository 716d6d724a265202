from __future__ import annotations

import os

import pytest

from hdvae_platform.cluster import environment


@pytest.mark.parametrize("configure", [environment.configure, environment.configure_training])
def test_only_variables_that_are_not_set_are_set(configure, monkeypatch):
    before = dict(os.environ)
    driver = environment._DRIVER | environment._WORKERS
    for name in (*driver, *environment._TRAINING):
        monkeypatch.setenv(name, "mine")
    configure()
    assert all(os.environ[name] == "mine" for name in (*driver, *environment._TRAINING))
    assert set(environment.of_workers().values()) == {"mine"}
    for name in (*driver, *environment._TRAINING):
        monkeypatch.delenv(name)
    configure()
    new = {name for name in os.environ if name not in before or os.environ[name] != before[name]}
    wanted = driver if configure is environment.configure else environment._TRAINING
    assert new <= wanted.keys()
    assert {name: os.environ[name] for name in wanted} == wanted
