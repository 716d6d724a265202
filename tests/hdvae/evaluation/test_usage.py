"""Which slots are used, dead, and drawn anew."""

import math

import pytest
import torch

from hdvae.evaluation.usage import Usage, perplexity
from hdvae.network.samplers import hard, independent
from hdvae.training.optimizer import Adamax, Group
from hdvae.training.revival import revive
from hdvae.workers import ALONE
from tests.hdvae.oracle import build, small_config, some_images
from tests.hdvae.oracle import source as noise_source


def model_of(**changes):
    return build(small_config("biva", 2, **changes))


def terms_of(model, seed=0, sampler=hard):
    images = some_images(20)
    noise = model.noise if sampler is hard else model.hard_noise
    return model(images, noise(noise_source(20, seed)), sampler)


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
    counts = usage.counts(8, 3)
    for name, last in usage.last.items():
        assert counts[f"slots_used/{name}"] == (last > 0).sum()
        assert counts[f"dead_slots/{name}"] == (last < 6).sum()
    assert all(not dead.any() for dead in usage.dead(2, 3).values()), "nothing is dead before its time"


def test_normal_variables_have_no_slots():
    model = model_of(latent="normal")
    usage = Usage(model)
    usage.note(terms_of(model), 1)
    usage.merge(ALONE)
    assert usage.counts(5, 1) == {}


def test_perplexity_is_the_number_of_slots_where_all_are_used_alike():
    codes = torch.stack([torch.arange(60) % 6, torch.zeros(60, dtype=torch.int64)], 1)
    assert perplexity(codes).item() == pytest.approx((6 + 1) / 2)
    skewed = torch.tensor([[0], [0], [0], [5]])
    assert perplexity(skewed).item() == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert perplexity(codes.view(6, 10, 2)).item() == pytest.approx(3.5)


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
        ALONE.average_gradients(model.parameters())
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
