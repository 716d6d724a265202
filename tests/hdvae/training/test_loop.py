"""The training loop on a few synthetic images: resuming, reports, averages, and early stopping."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from hdvae.errors import InputError, Interrupted
from hdvae.evaluation.evaluation import choose_images, evaluate
from hdvae.evaluation.metrics import DESCRIPTIONS, SLOT_USE, TRAINING_DESCRIPTIONS, check_tunable, training_metric_names
from hdvae.network.dropout import Dropout
from hdvae.network.wiring import WIRINGS, Node
from hdvae.training.snapshot import trained_model
from hdvae.training.state import Means
from hdvae.training.step import train_step
from tests.hdvae.training.sessions import IMAGE, Memory, assert_same_state, batch, experiment_of, fresh, run, toy

every_wiring = pytest.mark.parametrize("wiring", WIRINGS)


# --- Resuming --------------------------------------------------------------------------------------


@every_wiring
@pytest.mark.parametrize("latent", ["categorical", "normal"])
def test_resumed_is_uninterrupted_to_the_last_bit(wiring, latent):
    experiment = experiment_of(wiring, latent=latent, temperature=((0, 0.9), (10, 0.2)), gradient_clip=5.0)
    whole, session = run(experiment)
    killed = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, killed)
    torch.manual_seed(99)
    resumed, rest = run(experiment, Memory(killed.snapshots[-1]))
    assert_same_state(resumed, whole)
    assert killed.reports + rest.reports == session.reports
    assert [step for step, _ in rest.reports] == [8, 10]


@cache
def uninterrupted(choice):
    """The whole run, for all the places at which it is ended: its state and its session, only to be looked at."""
    return run(experiment_of(**json.loads(choice)))


@pytest.mark.parametrize("asked", range(13))
@pytest.mark.parametrize(
    "choice", [{}, {"patience": 1, "ema": 0.9}, {"temperature": "learned"}, {"precision": "bfloat16"}]
)
def test_ended_at_any_step_and_resumed_is_uninterrupted_to_the_last_bit(choice, asked):
    """The run asks before each of its ten steps and three reports; means that were not reported go along."""
    experiment = experiment_of(**choice)
    whole, session = uninterrupted(json.dumps(choice))
    first = Memory(end_at=[asked])
    with pytest.raises(Interrupted) as ended:
        run(experiment, first)
    done = ended.value.step
    kept = [*first.snapshots, *first.saved]
    assert done == (kept[-1].values["step"] if kept else 0) == asked - len(first.reports)
    torch.manual_seed(99)
    resumed, rest = run(experiment, Memory(kept[-1] if kept else None))
    assert_same_state(resumed, whole)
    assert first.reports + rest.reports == session.reports
    assert "means" not in rest.snapshots[-1].values


def test_a_run_that_is_asked_right_after_a_report_saves_nothing_twice():
    session = Memory(end_at=[5])
    with pytest.raises(Interrupted, match="stopped on request after step 4"):
        run(experiment_of(), session)
    assert (len(session.reports), session.saved) == (1, [])


def test_a_run_that_has_reported_its_last_step_is_not_ended():
    session = Memory(end_at=[13])
    state, _ = run(experiment_of(), session)
    assert (state.step, session.asked) == (10, 13)


def test_a_snapshot_holds_the_optimiser():
    state = fresh(experiment_of())
    assert not any(name.startswith("optimizer/") for name in state.snapshot().tensors)
    train_step(state, batch())
    tensors, values = state.snapshot().tensors, state.snapshot().values
    assert values == {"step": 1, "worse": 0, "seed": 3, "image": list(IMAGE), "experiment": state.experiment.plain()}
    for name, parameter in state.model.named_parameters():
        assert torch.equal(tensors[f"model/{name}"], parameter)
        for key in ("average", "largest"):
            assert tensors[f"optimizer/model/{name}/{key}"].shape == parameter.shape
        assert tensors[f"optimizer/model/{name}/step"].item() == 1


def test_restoring_leaves_the_snapshot_alone():
    """What a session keeps is not changed by training on."""
    experiment = experiment_of()
    _, session = run(experiment)
    kept = {name: tensor.clone() for name, tensor in session.snapshots[0].tensors.items()}
    run(experiment, Memory(session.snapshots[0]))
    assert all(torch.equal(session.snapshots[0].tensors[name], tensor) for name, tensor in kept.items())


def test_a_finished_run_does_nothing_more():
    experiment = experiment_of()
    whole, session = run(experiment)
    again, rest = run(experiment, Memory(session.snapshots[-1]))
    assert_same_state(again, whole)
    assert rest.reports == []


def test_a_snapshot_of_another_network_is_refused():
    _, session = run(experiment_of())
    with pytest.raises(InputError, match=r"^checkpoint, step 4: it lacks \S+ and \d+ more"):
        fresh(experiment_of("biva")).restore(session.snapshots[0])


# --- Seeds -----------------------------------------------------------------------------------------


def test_initial_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    one = fresh(experiment_of(), seed=5)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), expected), "the global generator was moved"
    assert_same_state(one, fresh(experiment_of(), seed=5))
    assert not torch.equal(one.model.top, fresh(experiment_of(), seed=6).model.top)


def test_a_step_is_a_function_of_the_state_and_the_seed():
    states = [fresh(experiment_of()) for _ in range(3)]
    for state, seed, noise in zip(states, (3, 3, 4), (0, 1, 0), strict=True):
        torch.manual_seed(noise)
        state.seed = seed
        train_step(state, batch())
    assert_same_state(states[0], states[1])
    assert not torch.equal(states[0].model.top, states[2].model.top)


def test_steps_have_different_noise_and_dropout():
    """With a learning rate of almost 0, two steps on one batch differ by their random numbers alone."""
    for changes in ({"dropout": 0.0}, {"dropout": 0.5, "latent": "normal"}):
        state = fresh(experiment_of(**changes, learning_rate=1e-30))
        values = [train_step(state, batch())["log_px"].item() for _ in range(2)]
        assert values[0] != values[1]


def test_steps_have_different_dropout():
    """The first dropout of the network sees nothing random but its own mask."""
    state, masks = fresh(experiment_of(learning_rate=1e-30, memory_learning_rate=1e-30)), []
    first = next(module for module in state.model.level(1).up.modules() if isinstance(module, Dropout))
    first.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    for _ in range(2):
        train_step(state, batch())
    assert 0.2 < masks[0].float().mean() < 0.8
    assert not torch.equal(masks[0], masks[1])


# --- The loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["vae", "skip_lvae", "biva"])
def test_the_objective_rises(wiring):
    """From 12 nats of coin flips towards the entropy of these images, about 3 nats."""
    experiment = experiment_of(
        wiring, steps=150, learning_rate=1e-2, dropout=0.1, evaluation={"every": 30, "draws": 10, "tau": (0.7,)}
    )
    _, session = run(experiment)
    objectives = [metrics["train/objective"] for _, metrics in session.reports]
    elbos = [metrics["valid/elbo"] for _, metrics in session.reports]
    assert objectives[-1] > objectives[0] + 1.5
    assert elbos[-1] > elbos[0] + 0.5
    assert elbos[-1] > -6.5
    assert session.reports[-1][1]["valid/iw_elbo"] < 0


@every_wiring
def test_reports_are_complete(wiring):
    experiment = experiment_of(wiring, evaluation={"tau": (0.5, 0.1)}, dead_after=4)
    state, session = run(experiment)
    assert [step for step, _ in session.reports] == [4, 8, 10]
    assert [snapshot.values["step"] for snapshot in session.snapshots] == [4, 8, 10]
    names = [state.model.name(node) for node in state.model.nodes]
    layers = {f"kl/{name}" for name in names}
    slots = {f"train/{what}/{name}" for what in ("slots_used", "dead_slots") for name in names}
    for step, metrics in session.reports:
        bare = {name for name in metrics if "@" not in name}
        expected = {f"train/{name}" for name in {*TRAINING_DESCRIPTIONS, *layers} - {"clipped"}}
        expected |= slots | {f"valid/{what}/{name}" for what in ("distance", *SLOT_USE) for name in names}
        at_the_end = {"iw_elbo", "iw_elbo_se"} if step < 10 else set()
        expected |= {f"valid/{name}" for name in {*DESCRIPTIONS, *layers} - at_the_end}
        assert metrics["valid/surrogate_elbo@tau=current"] == pytest.approx(metrics["valid/elbo"], abs=3)
        assert bare == expected
        assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
        for name in metrics:
            check_tunable(name)
        assert metrics["train/tau"] == pytest.approx(0.7)
    assert "valid/iw_elbo@S=3" in session.reports[-1][1]


def test_training_metrics_are_means_since_the_last_report():
    experiment = experiment_of(freebits=((0, 0.0), (10, 10.0)))
    _, session = run(experiment)
    assert [metrics["train/freebits"] for _, metrics in session.reports] == pytest.approx([1.5, 5.5, 8.5])


def test_evaluation_is_that_of_the_model_on_the_chosen_images():
    experiment, dataset = experiment_of(), toy()
    state, session = run(experiment)
    chosen = torch.from_numpy(dataset.images("valid")[choose_images(6, 9)])
    expected = evaluate(state.model, chosen, experiment.evaluation, 3, importance=True, current=0.7).metrics
    final = session.reports[-1][1]
    assert {name: final[f"valid/{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_the_last_step_is_reported_once():
    _, session = run(experiment_of(steps=8))
    assert [step for step, _ in session.reports] == [4, 8]
    assert "valid/iw_elbo" in session.reports[-1][1]


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"^training.batch_size is 16, but toy has 15 training images$"):
        run(experiment_of(), dataset=toy(15))
    run(experiment_of(steps=1), dataset=toy(16))


def test_means():
    means = Means()
    means.add({"a": torch.tensor(1.0), "tau": 0.5})
    means.add({"a": torch.tensor(4.0), "tau": 0.25})
    assert means.take() == {"a": 2.5, "tau": 0.375}
    means.add({"a": 7.0})
    assert means.take() == {"a": 7.0}


def test_nodes_of_two_directions_have_their_own_training_metrics():
    quantities = train_step(fresh(experiment_of("biva")), batch())
    assert [name for name in quantities if name.startswith("kl/")] == ["kl/layer_1_up", "kl/layer_2", "kl/layer_1_down"]
    assert Node(1, "up") in fresh(experiment_of("biva")).model.nodes


# --- Averaged weights and early stopping -----------------------------------------------------------


def test_averaged_weights_follow_and_are_what_is_evaluated():
    experiment = experiment_of(ema=0.5)
    state = fresh(experiment)
    for _ in range(3):
        train_step(state, batch())
    assert state.evaluated_model is state.average
    assert state.result() is state.average
    assert not torch.equal(state.average.top, state.model.top)


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"patience": 2}, {"ema": 0.9, "patience": 2}])
def test_resuming_keeps_averages_and_the_best(changes):
    experiment = experiment_of(**changes, steps=20)
    whole, session = run(experiment)
    killed = Memory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, killed)
    resumed, rest = run(experiment, Memory(killed.snapshots[-1]))
    assert_same_state(resumed, whole)
    assert killed.reports + rest.reports == session.reports


def test_training_stops_when_patience_runs_out_and_stands_for_the_best_weights():
    """A learning rate that is far too high makes the bound fall again."""
    experiment = experiment_of(patience=3, steps=400, learning_rate=0.3, memory_learning_rate=0.3)
    state, session = run(experiment)
    assert state.step < 400
    assert state.worse == 3
    elbos = {step: metrics["valid/elbo"] for step, metrics in session.reports}
    assert state.best.step == session.reports[-4][0]
    assert state.best.elbo == max(elbos.values())
    assert elbos[state.step] == pytest.approx(state.best.elbo, abs=1e-12), "the last point is that of the best weights"
    assert "valid/iw_elbo" in session.reports[-1][1]
    assert all("valid/iw_elbo" not in metrics for _, metrics in session.reports[:-1])
    again, silent = run(experiment, Memory(session.snapshots[-1]))
    assert silent.reports == []
    assert_same_state(again, state)


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"patience": 1, "learning_rate": 0.3}])
def test_a_snapshot_is_enough_to_have_the_model_back(changes):
    state, session = run(experiment_of(**changes))
    model = trained_model(session.snapshots[-1])
    assert not model.training
    for name, tensor in state.result().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


# --- Every objective -------------------------------------------------------------------------------

CHOICES = [
    {"objective": "relaxed_elbo"},
    {"objective": "relaxed_elbo_reads", "kappa": "local"},
    {"objective": "relaxed_elbo", "decoder": "lipschitz", "decoder_scale": "learned", "temperature": "learned"},
    {"temperature": "learned", "kappa": "local", "ema": 0.9},
    {"reads": "race", "race": {"draws": 8}, "temperature": ((0, 0.8), (10, 0.1)), "gradient_clip": 0.5},
    {"reads": "race", "shared_values": True, "objective": "relaxed_elbo", "ema": 0.9},
    {"reads": "race", "revive": True, "dead_after": 4, "temperature": "learned", "kappa": "local"},
    {"reads": "race", "estimator": "rloo", "keys": "plain"},
    *({"estimator": name} for name in ("straight_through", "gumbel_rao", "reinmax", "rloo", "vimco")),
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))


@every_choice
def test_resumed_is_uninterrupted_with_every_objective(choice):
    experiment = experiment_of("biva", **choice)
    whole, session = run(experiment)
    killed = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, killed)
    resumed, rest = run(experiment, Memory(killed.snapshots[-1]))
    assert_same_state(resumed, whole)
    assert killed.reports + rest.reports == session.reports


@every_choice
def test_reports_have_every_name_with_every_objective(choice):
    experiment = experiment_of(**choice)
    state, session = run(experiment)
    last = {name for name in session.reports[-1][1] if name.startswith("train/")}
    assert last == {f"train/{name}" for name in training_metric_names(experiment)}
    for _, metrics in session.reports:
        for name, value in metrics.items():
            check_tunable(name)
            assert np.isfinite(value), name
        raced = choice.get("reads") == "race" and choice.get("estimator") is None
        for node in state.model.nodes:
            name = f"dropped_mass/{state.model.name(node)}"
            assert (f"train/{name}" in metrics) == raced
            assert (f"valid/{name}@tau=0.1" in metrics) == ("reads" in choice)
    learned = {f"train/tau/{state.model.name(node)}" for node in state.model.nodes}
    assert (learned <= set(session.reports[0][1])) == (choice.get("temperature") == "learned")


def test_values_of_each_image_are_reported_with_their_places():
    dataset = toy()
    _, session = run(experiment_of(), dataset=dataset)
    (_, metrics), table = session.reports[-1], session.per_image[-1]
    assert table["image"].tolist() == choose_images(6, 9).tolist()
    for name in ("elbo", "kl/layer_1", "coupled_elbo@tau=0.1", "jensen_bound@tau=current", "iw_elbo@S=3"):
        assert table[name].dtype == torch.float64
        assert table[name].mean().item() == pytest.approx(metrics[f"valid/{name}"])
