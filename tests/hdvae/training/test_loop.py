"""Training on a few synthetic images: steps, snapshots, the guard against non-finite numbers, and reports."""

import json

import numpy as np
import pytest
import torch

from hdvae.bounds.bounds import certified_bound, distances, hardened, local_bound
from hdvae.bounds.lipschitz import certify
from hdvae.data.dataset import Dataset
from hdvae.errors import InputError, Interrupted, NonFinite
from hdvae.evaluation.evaluation import choose_images, evaluate
from hdvae.evaluation.metrics import DESCRIPTIONS, TRAINING_DESCRIPTIONS, check_tunable
from hdvae.experiment.experiment import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    LayerConfig,
    ModelConfig,
    TrainingConfig,
)
from hdvae.network.model import hard, independent, relaxed
from hdvae.network.wiring import WIRINGS, Node
from hdvae.objectives.estimators import gumbel_rao, log_q, reinmax, rloo, straight_through, vimco
from hdvae.objectives.objectives import surrogate_objective
from hdvae.randomness.noise import NoiseSource
from hdvae.training.loop import (
    Means,
    Snapshot,
    TrainState,
    _backward,
    objective_of,
    train,
    train_step,
    trained_model,
)
from hdvae.workers import ALONE
from tests.hdvae.oracle import CPU

every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
IMAGE = (4, 3)


def experiment_of(wiring="skip_lvae", evaluation=None, levels=2, **changes):
    """Ten steps of 16 images; `changes` are of the training, or of the model where it has the field."""
    layers = [LayerConfig(variables=2, classes=4), LayerConfig(variables=1, classes=9)][:levels]
    model = {"wiring": wiring, "blocks": "dense", "width": 8, "depth": 1, "layers": tuple(layers)}
    training = {"steps": 10, "batch_size": 16, "freebits": 0.1, "temperature": 0.7}
    for name, value in changes.items():
        (model if name in ModelConfig.model_fields else training)[name] = value
    return Experiment(
        data=DataConfig(name="toy"),
        model=ModelConfig(**model),
        training=TrainingConfig(**training),
        evaluation=EvaluationConfig(**{"every": 4, "images": 6, "draws": 2, "samples": 3, **(evaluation or {})}),
    )


def toy(count=40, valid=9):
    """Images of a bright or a dark half, with some noise."""
    rng = np.random.default_rng(0)

    def images(n):
        halves = np.zeros((n, *IMAGE), np.uint8)
        bright = rng.random(n) < 0.5
        halves[bright, :2] = 1
        halves[~bright, 2:] = 1
        return halves ^ (rng.random(halves.shape) < 0.05).astype(np.uint8)

    return Dataset.from_images("toy", {"train": images(count), "valid": images(valid), "test": images(4)})


class Memory:
    """A session that keeps everything, stops after some reports as a killed run would, and asks a run to end.

    `end_at` holds, for each time that a worker asks whether to stop (the first is 0), those at which it is to.
    """

    workers = ALONE

    def __init__(self, latest=None, stop_after=None, end_at=()):
        self.start, self.stop_after, self.end_at = latest, stop_after, end_at
        self.asked, self.saved = 0, []
        self.reports, self.snapshots, self.per_image = [], [], []

    def latest(self):
        return self.start

    def stops(self):
        self.asked += 1
        return self.asked - 1 in self.end_at

    def save(self, step, snapshot):
        assert snapshot.values["step"] == step
        self.saved.append(copied(snapshot))

    def report(self, step, metrics, per_image, snapshot):
        self.snapshots.append(copied(snapshot()))
        self.reports.append((step, dict(metrics)))
        self.per_image.append(per_image)
        if len(self.reports) == self.stop_after:
            raise KeyboardInterrupt


def copied(snapshot):
    """A snapshot as it is after storage: JSON, and tensors of their own."""
    tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    return Snapshot(tensors, json.loads(json.dumps(snapshot.values)))


def run(experiment, session=None, dataset=None, seed=3):
    session = session or Memory()
    return train(experiment, dataset or toy(), seed, session, CPU), session


def fresh(experiment, seed=3):
    return TrainState.fresh(experiment, IMAGE, seed, CPU)


def batch(count=16):
    return torch.from_numpy(toy().images("train")[:count]).float()


def assert_same_state(one, other):
    one, other = one.snapshot(), other.snapshot()
    assert one.values == other.values
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


# --- Resuming -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("asked", range(13))
@pytest.mark.parametrize("choice", [{}, {"patience": 1, "ema": 0.9}, {"temperature": "learned"}])
def test_ended_at_any_step_and_resumed_is_uninterrupted_to_the_last_bit(choice, asked):
    """The run asks before each of its ten steps and three reports; means that were not reported go along."""
    experiment = experiment_of(**choice)
    whole, session = run(experiment)
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
    with pytest.raises(Interrupted, match="asked to end after step 4"):
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
    assert values == {"step": 1, "seed": 3, "image": list(IMAGE), "experiment": state.experiment.plain()}
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
    with pytest.raises(RuntimeError, match="state_dict"):
        fresh(experiment_of("biva")).restore(session.snapshots[0])


# --- Seeds --------------------------------------------------------------------------------------------


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
    first = next(module for module in state.model.level(1).up.modules() if isinstance(module, torch.nn.Dropout))
    first.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    for _ in range(2):
        train_step(state, batch())
    assert 0.2 < masks[0].float().mean() < 0.8
    assert not torch.equal(masks[0], masks[1])


# --- One step -----------------------------------------------------------------------------------------


@every_wiring
def test_a_step_by_hand(wiring):
    """Adamax on the gradient of the surrogate with free bits, two learning rates, and the schedules at the step."""
    experiment = experiment_of(
        wiring,
        dropout=0.0,
        temperature=((0, 0.9), (10, 0.4)),
        freebits=((0, 0.0), (10, 1.0)),
        learning_rate=((0, 1e-2), (10, 2e-2)),
        memory_learning_rate=0.5,
    )
    state, hand = fresh(experiment), fresh(experiment).model
    values = hand.memory_values()
    others = [p for name, p in hand.named_parameters() if not name.endswith("values_NKD")]
    optimizer = torch.optim.Adamax([{"params": others, "lr": 0.0}, {"params": values, "lr": 0.5}])
    for step in range(3):
        quantities = train_step(state, batch())
        tau, freebits = 0.9 - 0.05 * step, 0.1 * step
        noise = hand.noise(NoiseSource.at(CPU, torch.float32, 16, seed=3, purpose="training", step=step))
        objective = surrogate_objective(hand(batch(), noise, relaxed(tau)), freebits)
        optimizer.zero_grad()
        (-objective.value).backward()
        norm = torch.cat([p.grad.flatten() for p in hand.parameters()]).norm()
        optimizer.param_groups[0]["lr"] = 1e-2 + 1e-3 * step
        optimizer.step()
        assert state.step == step + 1
        expected = {
            "objective": objective.value,
            "surrogate_elbo": objective.surrogate_elbo,
            "log_px": objective.log_px,
            "kl": sum(objective.kl),
            "tau": tau,
            "freebits": freebits,
            "learning_rate": 1e-2 + 1e-3 * step,
            "gradient_norm": norm,
        } | {f"kl/{hand.name(node)}": kl for node, kl in zip(hand.nodes, objective.kl, strict=True)}
        assert {n: float(v) for n, v in quantities.items()} == pytest.approx(
            {n: float(torch.as_tensor(v).detach()) for n, v in expected.items()}, rel=1e-4, abs=1e-6
        )
    for (name, mine), theirs in zip(state.model.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_quantities_are_tensors_without_graphs():
    quantities = train_step(fresh(experiment_of()), batch())
    assert not any(isinstance(value, torch.Tensor) and value.requires_grad for value in quantities.values())


def test_clipping_bounds_the_gradient_but_not_the_reported_norm():
    experiment = experiment_of(gradient_clip=1e-3)
    clipped, free = fresh(experiment), fresh(experiment_of())
    norms = [train_step(state, batch())["gradient_norm"].item() for state in (clipped, free)]
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 0.1
    total = torch.cat([p.grad.flatten() for p in clipped.model.parameters()]).norm().item()
    assert total == pytest.approx(1e-3, rel=1e-2)


def test_dropout_is_on_in_training_and_the_model_is_left_in_it():
    state = fresh(experiment_of())
    state.model.eval()
    train_step(state, batch())
    assert state.model.training


def test_optimizer_has_a_group_for_the_memory_values():
    experiment = experiment_of("biva")
    state = fresh(experiment)
    others, values = (group.parameters for group in state.optimizer.groups)
    assert {id(p) for p in values} == {id(p) for p in state.model.memory_values()}
    assert len(others) + len(values) == len(list(state.model.parameters()))
    normal = fresh(experiment_of("biva", latent="normal"))
    assert [len(group.parameters) for group in normal.optimizer.groups] == [len(list(normal.model.parameters())), 0]


# --- Numbers that are not finite ----------------------------------------------------------------------


def plant(state, name, value=float("nan")):
    with torch.no_grad():
        state.model.get_parameter(name).view(-1)[0] = value


@pytest.mark.parametrize(
    ("wiring", "parameter", "quantity"),
    [
        ("skip_lvae", "logits.1.bias", "log_px"),
        ("skip_lvae", "levels.0.layers.down.values_NKD", "log_px"),
        ("vae", "levels.1.priors.up.1.bias", "kl/layer_2"),
        ("lvae", "levels.0.priors.down.1.bias", "kl/layer_1"),
        ("biva", "levels.0.priors.up.1.bias", "kl/layer_1_up"),
    ],
)
def test_a_non_finite_quantity_is_named_and_nothing_is_changed(wiring, parameter, quantity):
    experiment = experiment_of(wiring)
    state = fresh(experiment)
    train_step(state, batch())
    plant(state, parameter)
    before = {name: tensor.clone() for name, tensor in state.snapshot().tensors.items()}
    with pytest.raises(NonFinite, match=f"^non-finite {quantity} at step 1$") as caught:
        train_step(state, batch())
    assert (caught.value.step, caught.value.quantity) == (1, quantity)
    assert state.step == 1
    for name, tensor in state.snapshot().tensors.items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_non_finite_gradient_is_named(bad, clip):
    """The loss is finite, one parameter's gradient is not: it is that one which is named."""
    experiment = experiment_of(gradient_clip=clip)
    state = fresh(experiment)
    parameter = "levels.1.posteriors.down.1.bias"
    state.model.get_parameter(parameter).register_hook(lambda gradient: gradient * bad)
    before = {name: tensor.clone() for name, tensor in state.snapshot().tensors.items()}
    with pytest.raises(NonFinite, match=f"^non-finite gradient of {parameter} at step 0$"):
        train_step(state, batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.snapshot().tensors.items())


def test_training_stops_at_a_non_finite_quantity():
    experiment = experiment_of()
    _, session = run(experiment)
    tensors = {name: tensor.clone() for name, tensor in session.snapshots[0].tensors.items()}
    tensors["model/logits.1.bias"][0] = float("nan")
    with pytest.raises(NonFinite, match="non-finite log_px at step 4"):
        run(experiment, Memory(Snapshot(tensors, session.snapshots[0].values)))


# --- The loop -----------------------------------------------------------------------------------------


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
    experiment = experiment_of(wiring, evaluation={"tau": (0.5, 0.1)})
    state, session = run(experiment)
    assert [step for step, _ in session.reports] == [4, 8, 10]
    assert [snapshot.values["step"] for snapshot in session.snapshots] == [4, 8, 10]
    names = [state.model.name(node) for node in state.model.nodes]
    layers = {f"kl/{name}" for name in names}
    slots = {f"train/{what}/{name}" for what in ("slots_used", "dead_slots") for name in names}
    for step, metrics in session.reports:
        bare = {name for name in metrics if "@" not in name}
        expected = {f"train/{name}" for name in {*TRAINING_DESCRIPTIONS, *layers}}
        expected |= {f"valid/{name}" for name in {*DESCRIPTIONS, *layers} - ({"iw_elbo"} if step < 10 else set())}
        expected |= slots | {f"valid/{what}/{name}" for what in ("distance", "perplexity") for name in names}
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


# --- Averaged weights and early stopping ---------------------------------------------------------------


def test_averaged_weights_follow_and_are_what_is_evaluated():
    experiment = experiment_of(ema=0.5)
    state = fresh(experiment)
    expected = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    for _ in range(3):
        train_step(state, batch())
        for name, tensor in state.model.named_parameters():
            expected[name] = 0.5 * expected[name] + 0.5 * tensor.detach()
    for name, tensor in state.average.named_parameters():
        torch.testing.assert_close(tensor, expected[name])
    assert state.judged is state.average
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
    assert state.best.worse == 3
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


# --- What is climbed ------------------------------------------------------------------------------------

CHOICES = [
    {"objective": "relaxed_elbo"},
    {"objective": "relaxed_elbo_reads", "kappa": "local"},
    {"objective": "relaxed_elbo", "decoder": "lipschitz", "decoder_scale": "learned", "temperature": "learned"},
    {"temperature": "learned", "kappa": "local", "ema": 0.9},
    {"reads": "race", "race": {"draws": 8}, "temperature": ((0, 0.8), (10, 0.1)), "gradient_clip": 0.5},
    {"reads": "race", "shared_values": True, "objective": "relaxed_elbo", "ema": 0.9},
    {"reads": "race", "revive": True, "dead_after": 2, "temperature": "learned", "kappa": "local"},
    {"reads": "race", "estimator": "rloo", "keys": "plain"},
    *({"estimator": name} for name in ("straight_through", "gumbel_rao", "reinmax", "rloo", "vimco")),
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))


@every_choice
def test_resumed_is_uninterrupted_whatever_is_climbed(choice):
    experiment = experiment_of("biva", **choice)
    whole, session = run(experiment)
    killed = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, killed)
    resumed, rest = run(experiment, Memory(killed.snapshots[-1]))
    assert_same_state(resumed, whole)
    assert killed.reports + rest.reports == session.reports


@every_choice
def test_reports_have_every_name_whatever_is_climbed(choice):
    state, session = run(experiment_of(**choice))
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


def step_noise(state, count=16, purpose="training", hard_noise=False):
    source = NoiseSource.at(CPU, torch.float32, count, seed=3, purpose=purpose, step=state.step)
    return (state.model.hard_noise if hard_noise else state.model.noise)(source)


@pytest.mark.parametrize("objective", ["relaxed_elbo", "relaxed_elbo_reads"])
@pytest.mark.parametrize("kappa", ["certified", "local"])
def test_the_relaxed_elbo_is_the_surrogate_minus_its_bound(objective, kappa):
    state = fresh(experiment_of(objective=objective, kappa=kappa, dropout=0.0))
    climbed = objective_of(state, batch(), 0.7, 0.1)
    model = state.model
    terms = model(batch(), step_noise(state), relaxed(0.7))
    apart = distances(terms, hardened(model, terms))
    bound = (
        certified_bound(certify(model), batch(), apart)
        if kappa == "certified"
        else local_bound(model, batch(), terms, hardened(model, terms))
    )
    penalty = (bound.soft if objective == "relaxed_elbo" else bound.read).mean()
    expected = surrogate_objective(terms, 0.1)
    assert climbed.objective.value.item() == pytest.approx((expected.value - penalty).item(), rel=1e-5)
    assert climbed.objective.surrogate_elbo.item() == pytest.approx(expected.surrogate_elbo.item(), rel=1e-6)
    assert penalty.item() > 0.1


def test_a_learned_temperature_follows_the_relaxed_elbo_and_the_model_its_objective():
    """The model's gradients are those of the surrogate alone; ρ's is that of surrogate minus bound."""
    state = fresh(experiment_of(temperature="learned", temperature_start=0.6, decoder="lipschitz", dropout=0.0))
    state.model.double()
    state.temperature.double()
    x = batch().double()

    def relaxed_value():
        return objective_of(state, x, state.tau, 0.1).relaxed

    climbed = objective_of(state, x, state.tau, 0.1)
    _backward(state, climbed)
    found = {name: p.grad.clone() for name, p in state.parameters().items() if p.grad is not None}
    fixed = {node: tau.detach() for node, tau in state.tau.items()}
    assert [tau.item() for tau in fixed.values()] == pytest.approx([0.6, 0.6])
    state.model.zero_grad()
    source = NoiseSource.at(CPU, torch.float64, 16, seed=3, purpose="training", step=0)
    (-surrogate_objective(state.model(x, state.model.noise(source), relaxed(fixed)), 0.1).value).backward()
    for name, parameter in state.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[f"model/{name}"], parameter.grad)
    rho, step = state.temperature.rho, 1e-5
    for i in range(len(rho)):
        with torch.no_grad():
            rho[i] += step
            above = relaxed_value()
            rho[i] -= 2 * step
            below = relaxed_value()
            rho[i] += step
        difference = ((above - below) / (2 * step)).item()
        # relaxed_value is to rise: the gradient of the loss is minus its slope; κ does not depend on τ
        assert found["temperature/rho"][i].item() == pytest.approx(-difference, rel=1e-5)


def test_a_learned_temperature_falls_and_stays_above_its_floor():
    choice = {"temperature": "learned", "temperature_start": 0.6, "temperature_floor": 0.3, "learning_rate": 0.1}
    state, session = run(experiment_of(objective="relaxed_elbo", **choice))
    means = [metrics["train/tau"] for _, metrics in session.reports]
    assert means == sorted(means, reverse=True)
    assert all(0.3 < tau.item() < 0.55 for tau in state.tau.values())
    final = session.reports[-1][1]
    assert final["valid/surrogate_elbo@tau=current"] != final["valid/surrogate_elbo@tau=0.1"]


@pytest.mark.parametrize("name", ["straight_through", "gumbel_rao", "reinmax"])
def test_hard_forward_estimators_climb_the_elbo_of_the_hard_chain(name):
    state = fresh(experiment_of(estimator=name, dropout=0.0))
    found = objective_of(state, batch(), 0.4, 0.1).objective
    terms = state.model(batch(), step_noise(state), hard)
    torch.testing.assert_close(found.value, surrogate_objective(terms, 0.1).value)
    samplers = {"straight_through": straight_through(0.4), "reinmax": reinmax(1.0)}
    if name == "gumbel_rao":
        noises = [step_noise(state, purpose="conditional" + (f" {r}" if r else "")) for r in range(4)]
        stacked = {node: torch.stack([noise[node] for noise in noises]) for node in state.model.nodes}
        samplers[name] = gumbel_rao(0.4, stacked)
    expected = surrogate_objective(state.model(batch(), step_noise(state), samplers[name]), 0.1)
    mine, theirs = (torch.autograd.grad(o.value, state.model.top) for o in (found, expected))
    torch.testing.assert_close(mine, theirs)
    keys = [state.model.layer(node).keys_PNMQ for node in state.model.nodes]
    again = objective_of(state, batch(), 0.4, 0.1).objective
    for one, other in zip(
        torch.autograd.grad(again.value, keys),
        torch.autograd.grad(
            surrogate_objective(state.model(batch(), step_noise(state), samplers[name]), 0.1).value, keys
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "per_image"), [("rloo", False), ("vimco", False), ("rloo", True), ("vimco", True)])
def test_score_estimators_by_hand(name, per_image):
    """Three samples of each image on noises of their own; a layer that is free costs λ and weighs nothing."""
    per = "image" if per_image else "batch"
    choice = {"estimator": name, "estimator_samples": 3, "dropout": 0.0, "freebits_per": per}
    state, freebits = fresh(experiment_of(**choice)), 0.05
    found = objective_of(state, batch(), 0.7, freebits).objective
    chains = [
        state.model(batch(), step_noise(state, purpose=purpose, hard_noise=True), independent)
        for purpose in ("training", "training 1", "training 2")
    ]
    weights, scores = [], []
    shown = [torch.stack([t.layers[i].expected_log_ratio() for t in chains]).detach() for i in range(2)]
    over = [(k.mean(0) if per_image else k.mean()) > freebits for k in shown]
    for terms in chains:
        ratios = [
            (layer.log_ratio() if name == "vimco" else layer.expected_log_ratio()) * counts
            for layer, counts in zip(terms.layers, over, strict=True)
        ]
        weights.append((terms.log_px - sum(ratios)).double())
        scores.append(log_q(terms))
    value = (vimco if name == "vimco" else rloo)(torch.stack(weights), torch.stack(scores))
    expected = value - sum(freebits * (~counts).double().mean() for counts in over)
    assert found.value.item() == pytest.approx(expected.item(), rel=1e-6)
    for node in state.model.nodes:
        keys = state.model.layer(node).keys_PNMQ
        mine, theirs = (torch.autograd.grad(v, keys, retain_graph=True)[0] for v in (found.value, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("freebits", [0.0, 100.0])
def test_free_bits_of_score_estimators(freebits):
    state = fresh(experiment_of(estimator="rloo", dropout=0.0))
    found = objective_of(state, batch(), 0.7, freebits).objective
    kl = sum(k.item() for k in found.kl)
    spent = kl if freebits == 0 else 2 * freebits
    assert found.value.item() == pytest.approx(found.log_px.item() - spent, rel=1e-5)
    assert sum(s.item() for s in found.spent) == pytest.approx(spent, rel=1e-5)


def test_values_of_each_image_are_reported_with_their_places():
    dataset = toy()
    _, session = run(experiment_of(), dataset=dataset)
    (_, metrics), table = session.reports[-1], session.per_image[-1]
    assert table["image"].tolist() == choose_images(6, 9).tolist()
    for name in ("elbo", "kl/layer_1", "coupled_elbo@tau=0.1", "jensen_bound@tau=current", "iw_elbo@S=3"):
        assert table[name].dtype == torch.float64
        assert table[name].mean().item() == pytest.approx(metrics[f"valid/{name}"])
