"""Runs that go on from the end of another, with other settings."""

import pytest
import torch

from hdvae.errors import InputError
from hdvae.training.loop import train
from tests.hdvae.oracle import CPU
from tests.hdvae.training.sessions import Memory, assert_same_state, experiment_of, run, toy


def go_on(experiment, source, session=None):
    session = session or Memory()
    return train(experiment, toy(), 3, session, CPU, lambda: source), session


def ended(**changes):
    """The last snapshot of a run of eight steps."""
    return run(experiment_of(steps=8, **changes))[1].snapshots[-1]


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9}, {"temperature": "learned"}, {"latent": "normal"}, {"reads": "race"}]
)
def test_more_steps_make_the_longer_run_to_the_last_bit(changes):
    whole, session = run(experiment_of(steps=16, **changes))
    longer, rest = go_on(experiment_of(steps=16, **changes), ended(**changes))
    assert_same_state(longer, whole)
    assert rest.reports == session.reports[2:]


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_was_killed_goes_on_from_its_own_snapshot_to_the_last_bit(stop_after):
    colder, source = experiment_of(steps=20, temperature=((0, 0.7), (20, 0.1)), dropout=0.2), ended()
    whole, session = go_on(colder, source)
    assert [step for step, _ in session.reports] == [12, 16, 20]
    killed = Memory(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        go_on(colder, source, killed)
    resumed, rest = train(colder, toy(), 3, again := Memory(killed.snapshots[-1]), CPU, pytest.fail), again
    assert_same_state(resumed, whole)
    assert killed.reports + rest.reports == session.reports


def test_other_settings_make_another_run_of_the_same_weights():
    source = ended(patience=2, revive=False)
    state, session = go_on(experiment_of(steps=12, ema=0.9, learning_rate=1e-5, memory_learning_rate=1e-5), source)
    for name, weight in state.model.named_parameters():
        assert torch.allclose(weight, source.tensors[f"model/{name}"], atol=1e-3)
        assert torch.allclose(dict(state.average.named_parameters())[name], weight, atol=1e-3)
    assert state.best is None
    assert [step for step, _ in session.reports] == [12]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 8}, "its checkpoint is of step 8: training.steps must be larger, not 8"),
        ({"width": 16}, "the network must be the same, but for model.dropout: model.width was 8, is 16"),
        ({"levels": 1}, "model.layers.1.variables was 1, is not there, model.layers.1.classes was 9"),
        ({"temperature": "learned"}, "learned needs a run whose temperature was learned too"),
    ],
)
def test_what_no_run_can_go_on_from(changes, said):
    with pytest.raises(InputError) as fault:
        go_on(experiment_of(**{"steps": 12, **changes}), ended())
    assert said in str(fault.value)
