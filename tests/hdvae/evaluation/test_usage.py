"""Which slots are used, dead, and drawn anew."""

from types import SimpleNamespace

import pytest
import torch

from hdvae.evaluation.usage import Usage
from hdvae.experiment.experiment import TrainingConfig
from hdvae.latents.distributions import Draw
from hdvae.network.samplers import hard, independent, relaxed
from hdvae.training.optimizer import Adamax, Group
from hdvae.training.revival import revive
from hdvae.workers import ALONE
from tests.hdvae.oracle import build, small_config, some_images
from tests.hdvae.oracle import source as noise_source


def model_of(**changes):
    return build(small_config("biva", 2, **changes))


def terms_of(model, seed=0, sampler=hard, count=20):
    images = some_images(20)[:count]
    noise = model.hard_noise if sampler is independent else model.noise
    return model(images, noise(noise_source(count, seed)), sampler)


@pytest.mark.parametrize("reads", ["dense", "race"])
def test_the_last_use_of_every_slot(reads):
    model = model_of(reads=reads)
    usage, expected = Usage(model), {}
    for step in (1, 5, 7):
        terms = terms_of(model, step)
        usage.note(terms, step)
        for layer in terms.layers:
            for row in layer.draw.hard.tolist():
                for n, k in enumerate(row):
                    expected[model.name(layer.node), n, k] = step
    for name, last in usage.last.items():
        for n, row in enumerate(last.tolist()):
            assert row == [expected.get((name, n, k), 0) for k in range(len(row))]
    config = TrainingConfig(steps=9, batch_size=4, dead_after=2.5)  # of 4 slots: 3 steps
    counts = usage.counts(8, config)
    for name, last in usage.last.items():
        assert counts[f"slots_used/{name}"] == (last > 0).double().sum(1).mean()
        assert counts[f"dead_slots/{name}"] == (last <= 5).double().sum(1).mean()
    assert usage.dead(2, config) == {}, "nobody knows before the first window has ended"
    assert usage.counts(2, config).keys() == {f"slots_used/{name}" for name in usage.last}


@pytest.mark.parametrize("reads", ["dense", "race"])
def test_slots_that_relaxed_samples_read_are_used(reads):
    """With the weight of a thousandth or more; a slot that a top-m read does not even draw is not."""
    model = model_of(reads=reads, race={"draws": 3})
    terms = terms_of(model, sampler=relaxed(0.7), count=1)
    usage = Usage(model)
    usage.note(terms, 4)
    more = 0
    for layer in terms.layers:
        expected = torch.zeros_like(usage.last[model.name(layer.node)])
        for image, row in enumerate(layer.draw.soft.tolist()):
            for n, weights in enumerate(row):
                slots = range(len(weights)) if reads == "dense" else layer.draw.slots[image, n].tolist()
                for k, weight in zip(slots, weights, strict=True):
                    if weight >= 1e-3:
                        expected[n, k] = 4
        assert torch.equal(usage.last[model.name(layer.node)], expected)
        more += int((expected > 0).sum()) - sum(len(set(column.tolist())) for column in layer.draw.hard.T)
    assert more > 0


@pytest.mark.parametrize("classes", [256, 65_536])
def test_uniform_use_of_any_memory_leaves_no_slot_dead(classes):
    """1000 steps of 128 uniform draws left 14% of 65,536 slots 'dead'; now that many steps show nothing about them."""
    model = SimpleNamespace(nodes=["only"], name=str, layer=lambda node: build_layer(classes))
    usage, config = Usage(model), TrainingConfig(steps=10_000, batch_size=128)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 1001):
        codes = torch.randint(classes, (128, 1), generator=generator)
        draw = Draw(hard=codes, read=codes)
        usage.note(SimpleNamespace(layers=[SimpleNamespace(node="only", draw=draw)]), step)
    dead = usage.counts(1000, config).get("dead_slots/only")
    assert dead == (0 if classes == 256 else None)


def build_layer(classes):
    model = model_of()
    layer = model.layer(model.nodes[0])
    layer.variables, layer.classes = 1, classes
    return layer


def test_a_step_with_several_samples_visits_more():
    once = TrainingConfig(steps=9, batch_size=128)
    often = TrainingConfig(steps=9, batch_size=128, estimator="rloo", estimator_samples=4)
    assert (once.dead_window(65_536), often.dead_window(65_536)) == (10_240, 2_560)


def test_normal_variables_have_no_slots():
    model = model_of(latent="normal")
    usage = Usage(model)
    usage.note(terms_of(model), 1)
    usage.merge(ALONE)
    assert usage.counts(5, TrainingConfig(steps=9)) == {}


@pytest.mark.parametrize("keys", ["factored", "plain"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("reads", ["dense", "race"])
def test_dead_slots_and_the_keys_of_none_but_them_are_drawn_anew(keys, shared, reads):
    """Their moments are forgotten, everything else is as it was; twice the same."""
    revived = []
    for _ in range(2):
        model = model_of(keys=keys, shared_values=shared, reads=reads)
        optimizer = Adamax([Group(list(model.parameters()), 2e-3)])
        terms = terms_of(model, sampler=independent)
        (-terms.log_px.sum() - sum(layer.q.kl(layer.p).sum() for layer in terms.layers)).backward()
        ALONE.average_rows(model.parameters())
        optimizer.step()
        node = next(node for node in model.nodes if model.layer(node).variables == 2)
        layer, name = model.layer(node), model.name(node)
        dead = torch.zeros(2, layer.classes, dtype=torch.bool)
        dead[0, :2], dead[1, 1] = True, True  # the first half-key of variable 0, and one slot of variable 1
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        moments = {key: value.clone() for key, value in optimizer.state[layer.values_NKD].items()}
        values, key = layer.values_NKD.detach().clone(), layer.keys_PNMQ.detach().clone()
        revive(model, optimizer, {name: dead}, seed=0, step=3)
        gone = dead.all(0, keepdim=True) if shared else dead
        assert torch.equal((layer.values_NKD != values).any(-1), gone)
        part = torch.zeros(layer.keys_PNMQ.shape[:3], dtype=torch.bool)
        if keys == "plain":
            part[0] = dead
        else:
            part[0, 0, 0] = True
        assert torch.equal((layer.keys_PNMQ != key).any(-1), part)
        for what, value in optimizer.state[layer.values_NKD].items():
            if value.dim() >= 2:
                assert (value[gone] == 0).all()
                assert torch.equal(value[~gone], moments[what][~gone])
        changed = {what for what, tensor in model.state_dict().items() if not torch.equal(tensor, before[what])}
        assert len(changed) <= 2
        revived.append(layer.values_NKD.detach().clone())
    assert torch.equal(*revived)
