"""An evaluation that was cut off goes on where it was, with the same numbers."""

import pytest
import torch

import hdvae.evaluation.evaluation as evaluation
from hdvae.training.snapshot import trained_model
from hdvae_platform.trained import unfinished
from hdvae_platform.trained.assessment import assess
from hdvae_platform.trained.loading import find_run
from hdvae_platform.trained.unfinished import Unfinished
from hdvae_platform.training.run import run
from tests.study.helpers.outcome import spec_of

SETTINGS = {"tau": (0.1,), "samples": 12, "draws": 2, "kappa": "certified"}


@pytest.fixture
def trained(places, edit, monkeypatch):
    spec = spec_of(edit({}), places)
    run(spec, lambda message: None)
    monkeypatch.setattr(evaluation, "rows_at_once", lambda model: 8)
    return find_run(f"{spec.storage}/{spec.folder}", places)


@pytest.fixture
def computed(monkeypatch):
    """The ranges of images that are computed."""
    ranges = []
    real = evaluation.measure_chunk

    def look(chunk, *arguments):
        ranges.append((chunk.first, chunk.first + len(chunk.x)))
        return real(chunk, *arguments)

    monkeypatch.setattr(evaluation, "measure_chunk", look)
    return ranges


def assessed(trained, places, dies_at=None, **changes):
    def progress(done, total):
        if done == dies_at:
            raise KeyboardInterrupt

    return assess(trained, "test", None, {**SETTINGS, **changes}, places, progress)


def test_it_goes_on_with_the_same_numbers(trained, places, computed):
    expected = assessed(trained, places)
    assert computed == [(0, 8), (8, 16), (16, 24)]
    computed.clear()
    with pytest.raises(KeyboardInterrupt):
        assessed(trained, places, dies_at=16)
    again = assessed(trained, places)
    assert computed == [(0, 8), (8, 16), (16, 24)], "no chunk is computed twice"
    assert again.document() == expected.document()
    assert again.files["test.parquet"] == expected.files["test.parquet"]
    assert not list((places.home / unfinished.FOLDER).iterdir())


def test_other_settings_and_other_weights_begin_anew(trained, places, computed, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        assessed(trained, places, dies_at=16)
    computed.clear()
    assessed(trained, places, samples=13)
    assert len(computed) == 3
    computed.clear()
    monkeypatch.setattr("hdvae_platform.trained.assessment.trained_model", _shifted)
    assessed(trained, places)
    assert len(computed) == 3


def _shifted(snapshot):
    model = trained_model(snapshot)
    with torch.no_grad():
        model.top.add_(1e-3)
    return model


@pytest.mark.parametrize("ending", ["safetensors", "json"])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]])
def test_damaged_results_are_computed_again(tmp_path, damage, ending):
    expected, calls = {"a": torch.arange(3.0), "b": torch.ones(2, 2).double()}, []

    def compute():
        calls.append(1)
        return expected

    Unfinished(tmp_path, {})(range(3), compute)
    (file,) = tmp_path.glob(f"{unfinished.FOLDER}/*/*.{ending}")
    file.write_bytes(damage(file.read_bytes()))
    keep = Unfinished(tmp_path, {})
    found = keep(range(3), compute)
    assert (len(calls), keep.resumed) in ((2, 0), (1, 3)), "a letter of the manifest may not matter"
    assert ending == "json" or len(calls) == 2
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_evaluation_does_not_need_the_folder(tmp_path):
    (tmp_path / unfinished.FOLDER).write_text("a file where the folder would be")
    keep = Unfinished(tmp_path, {})
    found = keep(range(3), lambda: {"a": torch.ones(3)})
    assert torch.equal(found["a"], torch.ones(3))
    assert keep.fault
