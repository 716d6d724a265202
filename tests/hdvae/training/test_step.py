"""One training step: its gradient, its objective with every estimator, and the check for non-finite numbers."""

from dataclasses import replace

import pytest
import torch

from hdvae.bounds.bounds import certified_bound, distances, hardened, local_bound
from hdvae.bounds.lipschitz import certify
from hdvae.errors import NonFinite
from hdvae.network.samplers import hard, independent, relaxed
from hdvae.network.wiring import WIRINGS
from hdvae.objectives.hard_forward import gumbel_rao, reinmax, straight_through
from hdvae.objectives.objectives import surrogate_objective
from hdvae.objectives.score_function import log_q, rloo, vimco
from hdvae.randomness.noise import NoiseSource
from hdvae.training import step as steps
from hdvae.training.finite import FirstNonFinite
from hdvae.training.state import TrainState, quantities_of
from hdvae.training.step import _backward, train_step
from tests.hdvae.oracle import CPU
from tests.hdvae.training.sessions import Memory, batch, experiment_of, fresh, objective_of, run

every_wiring = pytest.mark.parametrize("wiring", WIRINGS)


# --- One step --------------------------------------------------------------------------------------


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


def test_the_share_of_clipped_steps_is_reported_where_gradients_are_clipped():
    free = fresh(experiment_of())
    limit = sorted(train_step(free, batch())["gradient_norm"].item() for _ in range(5))[2]
    state = fresh(experiment_of(gradient_clip=limit))
    taken = [train_step(state, batch()) for _ in range(5)]
    clipped = [one["clipped"].item() for one in taken]
    assert clipped == [one["gradient_norm"].item() + 1e-6 > limit for one in taken]
    assert 0 < sum(clipped) < 5
    assert "clipped" not in train_step(free, batch())


def test_the_report_has_the_share_of_clipped_steps_since_the_last_one():
    for limit, share in ((1e-3, 1.0), (1e6, 0.0)):
        _, session = run(experiment_of(gradient_clip=limit))
        assert [metrics["train/clipped"] for _, metrics in session.reports] == [share] * 3


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


# --- Numbers that are not finite -------------------------------------------------------------------


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


def as_on_a_gpu(monkeypatch):
    """Steps are not waited for."""
    real = TrainState.fresh

    def fresh(*arguments):
        state = real(*arguments)
        state.finite = FirstNonFinite(quantities_of(state.model, state.experiment.training))
        return state

    monkeypatch.setattr(TrainState, "fresh", fresh)


@pytest.mark.parametrize(
    ("choice", "quantity"), [({}, "log_px"), ({"estimator": "rloo"}, "log_px"), ({"latent": "normal"}, "log_px")]
)
def test_where_steps_are_not_waited_for_the_next_report_tells_the_first_such_step(monkeypatch, choice, quantity):
    """As on a GPU: the same step and quantity, and nothing of it is reported or saved."""
    experiment = experiment_of(**choice, width=16, depth=3, learning_rate=1e18, evaluation={"every": 5})
    with pytest.raises(NonFinite) as waited:
        run(experiment)
    as_on_a_gpu(monkeypatch)
    session = Memory()
    with pytest.raises(NonFinite) as later:
        run(experiment, session)
    assert (later.value.step, later.value.quantity) == (waited.value.step, waited.value.quantity) == (1, quantity)
    assert (session.reports, session.saved) == ([], [])
    session = Memory(end_at=[3])
    with pytest.raises(NonFinite, match=f"^non-finite {quantity} at step 1$"):
        run(experiment, session)
    assert session.saved == []


def test_steps_that_are_finite_give_the_same_numbers_whether_waited_for_or_not(monkeypatch):
    expected, _ = run(experiment_of())
    as_on_a_gpu(monkeypatch)
    state, _ = run(experiment_of())
    for name, tensor in state.snapshot().tensors.items():
        assert torch.equal(tensor, expected.snapshot().tensors[name]), name


@pytest.mark.parametrize(
    ("choice", "quantity"),
    [
        ({"objective": "relaxed_elbo"}, "log_px"),
        ({"reads": "race"}, "log_px"),
        ({"reads": "race", "objective": "relaxed_elbo_reads", "blocks": "conv"}, "log_px"),
    ],
)
def test_a_learning_rate_that_is_far_too_high_ends_in_a_step_and_a_quantity(choice, quantity):
    """Neither eigenvalues of matrices with infinite entries nor tables at NaN raise errors of their own."""
    experiment = experiment_of(**choice, width=16, depth=3, learning_rate=1e18, evaluation={"every": 1})
    with pytest.raises(NonFinite, match=f"^non-finite {quantity} at step 1$"):
        run(experiment)


@pytest.mark.parametrize(("objective", "quantity"), [("relaxed_elbo", "lipschitz_bound"), ("surrogate", "objective")])
def test_an_objective_that_is_not_finite_while_its_parts_are_is_named(monkeypatch, objective, quantity):
    state = fresh(experiment_of(objective=objective))
    step_objective = steps.step_objective

    def not_finite(*inputs):
        found = step_objective(*inputs)
        value = found.model.value * float("inf")
        return replace(found, model=replace(found.model, value=value), relaxed_elbo=value)

    monkeypatch.setattr(steps, "step_objective", not_finite)
    with pytest.raises(NonFinite, match=f"^non-finite {quantity} at step 0$"):
        train_step(state, batch())


# --- Objectives ------------------------------------------------------------------------------------


def step_noise(state, count=16, purpose="training", hard_noise=False):
    source = NoiseSource.at(CPU, torch.float32, count, seed=3, purpose=purpose, step=state.step)
    return (state.model.hard_noise if hard_noise else state.model.noise)(source)


@pytest.mark.parametrize("objective", ["relaxed_elbo", "relaxed_elbo_reads"])
@pytest.mark.parametrize("kappa", ["certified", "local"])
def test_the_relaxed_elbo_is_the_surrogate_minus_its_bound(objective, kappa):
    state = fresh(experiment_of(objective=objective, kappa=kappa, dropout=0.0))
    found = objective_of(state, batch(), 0.7, 0.1)
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
    assert found.model.value.item() == pytest.approx((expected.value - penalty).item(), rel=1e-5)
    assert found.model.surrogate_elbo.item() == pytest.approx(expected.surrogate_elbo.item(), rel=1e-6)
    assert penalty.item() > 0.1


def test_a_learned_temperature_follows_the_relaxed_elbo_and_the_model_its_objective():
    """The model's gradients are those of the surrogate alone; ρ's is that of surrogate minus bound."""
    state = fresh(experiment_of(temperature="learned", temperature_start=0.6, decoder="lipschitz", dropout=0.0))
    state.model.double()
    state.temperature.double()
    x = batch().double()

    def relaxed_value():
        return objective_of(state, x, state.tau, 0.1).relaxed_elbo

    objective = objective_of(state, x, state.tau, 0.1)
    _backward(state, objective)
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
def test_hard_forward_estimators_maximise_the_elbo_of_the_hard_chain(name):
    state = fresh(experiment_of(estimator=name, dropout=0.0))
    found = objective_of(state, batch(), 0.4, 0.1).model
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
    again = objective_of(state, batch(), 0.4, 0.1).model
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
    found = objective_of(state, batch(), 0.7, freebits).model
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
    found = objective_of(state, batch(), 0.7, freebits).model
    kl = sum(k.item() for k in found.kl)
    spent = kl if freebits == 0 else 2 * freebits
    assert found.value.item() == pytest.approx(found.log_px.item() - spent, rel=1e-5)
    assert sum(s.item() for s in found.spent) == pytest.approx(spent, rel=1e-5)
