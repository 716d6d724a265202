"""The state of training: what a snapshot must have, averaged weights, the best weights, and reinitialised slots."""

import math
import re

import pytest
import torch

import hdvae.training.loop as loop
from hdvae.errors import InputError, Interrupted
from hdvae.evaluation.evaluation import Evaluation, evaluate
from hdvae.training.snapshot import Snapshot, trained_model
from hdvae.training.step import train_step
from tests.hdvae.oracle import CPU
from tests.hdvae.training.sessions import Memory, assert_same_state, batch, copied, experiment_of, fresh, run, toy

# --- Snapshots of other states -----------------------------------------------------------------------

EVERYTHING = {"reads": "race", "ema": 0.9, "patience": 2, "temperature": "learned", "kappa": "local"}


@pytest.fixture(scope="module")
def kept():
    return run(experiment_of(**EVERYTHING, steps=4))[1].snapshots[-1]


def renamed(names, old, new):
    """Named values, the first whose name matches `old` with `new` in place of it; without it if `new` is None."""
    name = next(name for name in names if re.search(old, name))
    rest = {key: value for key, value in names.items() if key != name}
    return rest if new is None else {**rest, re.sub(old, new, name): names[name]}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("^optimizer/model/top/largest", None, "lacks optimizer/model/top/largest;"),
        ("^optimizer/model/top/step", None, "lacks optimizer/model/top/step;"),
        (
            "model/top/average",
            "model/top/mean",
            "lacks optimizer/model/top/average and has unknown optimizer/model/top",
        ),
        (
            "^optimizer/model/top/.*",
            "optimizer/model/up/average",
            "lacks .* and has unknown optimizer/model/up/average",
        ),
        ("/row_step$", None, r"lacks optimizer/model/\S*/row_step;"),
        ("^usage/", "use/", "lacks usage/.* and has unknown use/"),
        ("^average/top", None, "lacks average/top;"),
        ("^best/top", None, "lacks best/top;"),
        ("^temperature/rho", "temperature/log_tau", "lacks temperature/rho and has unknown temperature/log_tau;"),
        ("^model/top", "model/bottom", "lacks model/top and has unknown model/bottom;"),
    ],
)
def test_a_snapshot_with_missing_renamed_or_surplus_tensors_is_refused(kept, old, new, said):
    with pytest.raises(InputError, match=f"^checkpoint, step 4: it {said}.* or delete the checkpoints of this run"):
        fresh(experiment_of(**EVERYTHING, steps=4)).restore(Snapshot(renamed(kept.tensors, old, new), kept.values))


def test_a_snapshot_without_any_moments_is_refused(kept):
    tensors = {name: tensor for name, tensor in kept.tensors.items() if not name.startswith("optimizer/")}
    with pytest.raises(InputError, match=r"^checkpoint, step 4: it lacks optimizer/\S+ and \d+ more; use"):
        fresh(experiment_of(**EVERYTHING, steps=4)).restore(Snapshot(tensors, kept.values))


def test_parts_that_the_experiment_does_not_have_are_refused(kept):
    with pytest.raises(InputError, match=r"it has unknown average/\S+ and \d+ more; use"):
        fresh(experiment_of(**{**EVERYTHING, "ema": None}, steps=4)).restore(kept)


@pytest.mark.parametrize("name", ["worse", "means"])
def test_a_snapshot_between_two_reports_needs_its_means(name):
    session = Memory(end_at=[2])
    with pytest.raises(Interrupted):
        run(experiment_of(), session)
    (kept,) = session.saved
    fresh(experiment_of()).restore(kept)
    with pytest.raises(InputError, match=f"^checkpoint, step 2: it lacks {name};"):
        fresh(experiment_of()).restore(Snapshot(kept.tensors, {k: v for k, v in kept.values.items() if k != name}))


@pytest.mark.parametrize("new", [None, "gradient_size"])
def test_means_of_other_metrics_are_refused(new):
    session = Memory(end_at=[2])
    with pytest.raises(Interrupted):
        run(experiment_of(), session)
    (kept,) = session.saved
    means = {**kept.values["means"], "sums": renamed(kept.values["means"]["sums"], "^gradient_norm", new)}
    with pytest.raises(InputError, match=r"^checkpoint, means: it lacks gradient_norm"):
        run(experiment_of(), Memory(Snapshot(kept.tensors, {**kept.values, "means": means})))


def test_a_model_with_renamed_weights_is_refused(kept):
    tensors = renamed(renamed(kept.tensors, "^best/top", "best/bottom"), "^model/top", None)
    with pytest.raises(InputError, match=r"^checkpoint, weights: it lacks top and has unknown bottom;"):
        trained_model(Snapshot(tensors, kept.values))


# --- Averaged weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_the_average_is_the_bias_corrected_sum_of_the_weights_after_each_step(decay):
    state, expected, total = fresh(experiment_of(ema=decay)), {}, 0.0
    for _ in range(4):
        train_step(state, batch())
        total = decay * total + 1
        for name, tensor in state.model.named_parameters():
            expected[name] = decay * expected.get(name, 0.0) + tensor.detach().double()
    for name, tensor in state.average.named_parameters():
        torch.testing.assert_close(tensor.double(), expected[name] / total, rtol=1e-5, atol=1e-6)


def test_the_average_does_not_remember_the_initial_weights():
    state = fresh(experiment_of(ema=0.9999))
    with torch.no_grad():
        for parameter in state.average.parameters():
            parameter.fill_(1e6)
    train_step(state, batch())
    for mine, theirs in zip(state.average.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# --- The best weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [math.nan, math.inf, -math.inf])
def test_an_evaluation_that_is_not_finite_is_never_best(first):
    state = fresh(experiment_of(patience=3))
    for elbo, best, worse in [(first, None, 1), (-9.0, -9.0, 0), (first, -9.0, 1), (-8.0, -8.0, 0), (-8.5, -8.0, 1)]:
        state.note_elbo(elbo)
        assert (state.best and state.best.elbo, state.worse) == (best, worse)


def test_patience_runs_out_without_a_finite_evaluation_and_a_resumed_run_counts_on(monkeypatch):
    def not_finite(*args, **how):
        found = evaluate(*args, **how)
        return Evaluation({**found.metrics, "elbo": math.nan}, found.per_image)

    monkeypatch.setattr(loop, "evaluate", not_finite)
    experiment = experiment_of(patience=2, steps=40)
    state, session = run(experiment)
    assert (state.best, state.step) == (None, 8)
    assert state.result() is state.model
    resumed, rest = run(experiment, Memory(session.snapshots[0]))
    assert_same_state(resumed, state)
    assert len(rest.reports) == 1


# --- Reinitialised slots -----------------------------------------------------------------------------

REVIVING = {"revive": True, "dead_after": 3, "steps": 12, "temperature": 0.05}  # relaxed samples read few slots


def changed_slots(state, before):
    return sum(
        int((tensor != before[name]).any(-1).sum())
        for name, tensor in state.model.named_parameters()
        if name.endswith(("values_NKD", "keys_PNMQ"))
    )


@pytest.mark.parametrize("ema", [None, 0.9])
def test_what_is_reported_is_measured_with_the_weights_in_the_snapshot(ema):
    experiment, dataset = experiment_of(**REVIVING, ema=ema), toy()
    _, session = run(experiment, dataset=dataset)
    images = torch.from_numpy(dataset.images("valid")[session.per_image[0]["image"]])
    for (_, metrics), snapshot in zip(session.reports, session.snapshots, strict=True):
        model = trained_model(snapshot)
        found = evaluate(model, images, experiment.evaluation, 3, importance=False, current=0.05).metrics
        assert metrics["valid/elbo"] == pytest.approx(found["elbo"], abs=1e-6)
    dead = [metrics[f"train/dead_slots/layer_{i}"] for _, metrics in session.reports[:-1] for i in (1, 2)]
    assert any(dead)


def test_slots_are_initialised_again_in_the_average_too_and_their_moments_are_zero():
    state = fresh(experiment_of(**REVIVING, ema=0.9, dropout=0.0))
    for _ in range(4):
        state.means.add(train_step(state, batch()))
    state.means.take()
    before = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    dead = state.usage.dead(4, state.experiment.training)
    assert state.revival_is_due
    loop._revive(state)
    assert changed_slots(state, before) > 0
    for node in state.model.nodes:
        mine, average = state.model.layer(node).values_NKD, state.average.layer(node).values_NKD
        rows = dead[state.model.name(node)]
        assert torch.equal(mine[rows], average[rows])
        assert not torch.equal(mine[~rows], average[~rows])
        assert not state.optimizer.state[mine]["average"][rows].any()


@pytest.mark.parametrize("asked", [4, 5, 6, 10, 14])
@pytest.mark.parametrize("choice", [{"ema": 0.9}, {"patience": 1, "learning_rate": 0.3, "ema": 0.5}])
def test_a_reviving_run_ended_anywhere_and_resumed_is_uninterrupted(choice, asked):
    """It asks before each of its twelve steps and three reports: as its fifth question before the report of step 4."""
    experiment = experiment_of(**{**REVIVING, **choice})
    whole, session = run(experiment)
    first = Memory(end_at=[asked])
    try:
        run(experiment, first)
    except Interrupted:
        assert len(first.reports) <= len(session.reports)
    kept = [*first.snapshots, *first.saved]
    resumed, rest = run(experiment, Memory(max(kept, key=lambda one: one.values["step"]) if kept else None))
    assert_same_state(resumed, whole)
    assert first.reports + rest.reports == session.reports


def test_a_run_resumed_from_the_snapshot_of_its_last_step_changes_nothing():
    experiment = experiment_of(**REVIVING)
    whole, session = run(experiment)
    final = copied(session.snapshots[-1])
    assert final.values["step"] == 12
    again, rest = run(experiment, Memory(final))
    assert_same_state(again, whole)
    assert rest.reports == []
    assert torch.equal(again.model.top, whole.result().top)
    assert whole.model.top.device == CPU
