"""One behavioural suite over the five wirings, both kinds of latent variables and both kinds of blocks."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hdvae.bounds.exact import given
from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.network.dropout import dropping
from hdvae.network.model import HDVAE
from hdvae.network.samplers import hard, independent, relaxed
from hdvae.network.terms import bernoulli_log_prob
from hdvae.network.wiring import WIRINGS, Node
from hdvae.objectives.objectives import expected_log_weight, log_weight, surrogate_objective
from tests.hdvae.oracle import build, small_config, some_images, source

LAYERS = (
    LayerConfig(variables=2, classes=4),
    LayerConfig(variables=1, classes=9),
    LayerConfig(variables=2, classes=4, kernel=1),
)
CHAINS = {"relaxed": relaxed(0.5), "hard": hard, "independent": independent}
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
every_latent = pytest.mark.parametrize("latent", ["categorical", "normal"])
every_block = pytest.mark.parametrize("blocks", ["conv", "dense"])
every_chain = pytest.mark.parametrize("chain", CHAINS)


def make(wiring, latent="categorical", blocks="dense", image=(5, 4), **settings):
    options = {"latent": latent, "blocks": blocks, "width": 4, "layers": LAYERS, **settings}
    return build(small_config(wiring, **options), image, seed=3, contrast=1.5)


def noise_of(model, chain, count, seed=0, dtype=torch.float64):
    draw = model.hard_noise if chain == "independent" else model.noise
    return draw(source(count, seed, dtype))


def run(model, chain="relaxed", count=3, seed=0, image=(5, 4)):
    return model(some_images(count, image), noise_of(model, chain, count, seed), CHAINS[chain])


def rows_of(noise, rows):
    return {node: value[rows] for node, value in noise.items()}


def tensors_of(terms):
    """Every number of the terms, by name."""
    found = {"log_px": terms.log_px}
    for i, layer in enumerate(terms.layers):
        found |= {f"{i} read": layer.draw.read, f"{i} hard": layer.draw.hard, f"{i} ratio": layer.log_ratio()}
        found |= {f"{i} q": numbers_of(layer.q), f"{i} p": numbers_of(layer.p)}
    return found


def numbers_of(law):
    """All parameters of a law, (B, …)."""
    tensors = [law.mean, law.log_scale] if hasattr(law, "mean") else law.parts
    return torch.cat([tensor.flatten(1) for tensor in tensors], 1)


def assert_same(one, other, **tolerance):
    one, other = tensors_of(one), tensors_of(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda text, n=name: f"{n}: {text}", **tolerance)


# --- Shapes and repeatability -------------------------------------------------------------------------


@every_wiring
@every_latent
@every_block
@every_chain
def test_shapes(wiring, latent, blocks, chain):
    model = make(wiring, latent, blocks)
    for count in (1, 3):
        terms = run(model, chain, count)
        assert [layer.node for layer in terms.layers] == list(model.nodes)
        assert terms.log_px.shape == (count,)
        assert (terms.log_px < 0).all()
        for layer in terms.layers:
            config = LAYERS[layer.node.level - 1]
            assert layer.draw.hard.shape == (count, config.variables)
            assert layer.draw.read.shape == (count, model.layer(layer.node).read_size)
            if latent == "categorical":
                assert layer.draw.hard.max() < config.classes
                assert layer.q.joint().shape == (count, config.variables, config.classes)
        for value in (log_weight(terms), expected_log_weight(terms)):
            assert value.shape == (count,)
            assert value.dtype == torch.float64
            assert torch.isfinite(value).all()


@every_wiring
@pytest.mark.parametrize("image", [(1, 1), (7, 5), (28, 28), (3, 11)])
@every_block
def test_any_image_size(wiring, image, blocks):
    model = make(wiring, blocks=blocks, image=image)
    assert torch.isfinite(log_weight(run(model, image=image))).all()
    draws, logits = model.generate(noise_of(model, "independent", 2), independent)
    assert logits.shape == (2, *image)
    assert set(draws) == set(model.nodes)
    assert model.score(draws)[1].shape == (2, *image)


@every_wiring
@every_latent
@every_block
def test_the_same_seed_gives_the_same_numbers(wiring, latent, blocks):
    model = make(wiring, latent, blocks)
    assert_same(run(model), run(make(wiring, latent, blocks)), rtol=0, atol=0)
    assert not torch.equal(run(model, seed=1).log_px, run(model).log_px)


@every_wiring
@every_latent
@every_block
def test_weights_survive_a_round_trip(wiring, latent, blocks):
    model = make(wiring, latent, blocks)
    other = build(model.config, model.image, seed=9)
    assert not torch.equal(run(other).log_px, run(model).log_px)
    other.load_state_dict(model.state_dict())
    assert_same(run(other), run(model), rtol=0, atol=0)


@every_wiring
@every_latent
@every_block
def test_float32_is_close_to_float64(wiring, latent, blocks):
    model = make(wiring, latent, blocks)
    x, noise = some_images(4, (5, 4)), noise_of(model, "relaxed", 4)
    precise = model(x, noise, relaxed(0.5))
    single = model.float()(x.float(), {node: value.float() for node, value in noise.items()}, relaxed(0.5))
    assert single.log_px.dtype == torch.float32
    for (name, value), expected in zip(tensors_of(single).items(), tensors_of(precise).values(), strict=True):
        torch.testing.assert_close(value.double(), expected.double(), rtol=1e-5, atol=1e-3, msg=name)


# --- Chains -------------------------------------------------------------------------------------------


@every_wiring
@every_latent
@every_block
def test_cold_relaxed_samples_are_the_hard_ones_on_the_same_noise(wiring, latent, blocks):
    model = make(wiring, latent, blocks)
    x, noise = some_images(4, (5, 4)), noise_of(model, "hard", 4)
    assert_same(model(x, noise, relaxed(1e-7)), model(x, noise, hard), rtol=1e-6, atol=1e-9)
    if latent == "normal":
        assert_same(model(x, noise, relaxed(5.0)), model(x, noise, hard), rtol=0, atol=0)
    else:
        warm = model(x, noise, relaxed(1.0))
        assert (warm.log_px - model(x, noise, hard).log_px).abs().min() > 1e-6


@every_wiring
@every_latent
def test_encode_is_independent_of_the_noise_and_may_be_used_often(wiring, latent):
    model = make(wiring, latent)
    x = some_images(3, (5, 4))
    encoded = model.encode(x)
    assert len(encoded) == (1 if model.wiring.samples_up else 3)
    before = [h.clone() for h in encoded]
    for seed in (0, 1):
        noise = noise_of(model, "relaxed", 3, seed)
        assert_same(model.terms(x, encoded, noise, relaxed(0.5)), model(x, noise, relaxed(0.5)), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(before, encoded, strict=True))


@every_wiring
@every_latent
def test_scoring_the_draws_gives_the_terms(wiring, latent):
    model = make(wiring, latent)
    terms = run(model)
    priors, logits = model.score({layer.node: layer.draw for layer in terms.layers})
    torch.testing.assert_close(bernoulli_log_prob(some_images(3, (5, 4)), logits), terms.log_px)
    for layer in terms.layers:
        torch.testing.assert_close(numbers_of(priors[layer.node]), numbers_of(layer.p))


# --- Rows ---------------------------------------------------------------------------------------------


@every_wiring
@every_latent
@every_block
def test_an_image_does_not_depend_on_its_batch(wiring, latent, blocks):
    model = make(wiring, latent, blocks)
    x, noise = some_images(5, (5, 4)), noise_of(model, "relaxed", 5)
    whole = tensors_of(model(x, noise, relaxed(0.5)))
    for rows in ([3], [4, 0]):
        part = model(x[rows], rows_of(noise, rows), relaxed(0.5))
        for name, value in tensors_of(part).items():
            torch.testing.assert_close(value, whole[name][rows], msg=lambda text, n=name: f"{n}: {text}")


@every_wiring
@every_latent
@every_block
@every_chain
def test_a_broken_image_breaks_its_own_terms_only(wiring, latent, blocks, chain):
    model = make(wiring, latent, blocks)
    x, noise = some_images(3, (5, 4)), noise_of(model, chain, 3)
    broken = x.clone()
    broken[1, 2, 2] = torch.nan
    good, bad = (tensors_of(model(images, noise, CHAINS[chain])) for images in (x, broken))
    assert torch.isnan(bad["log_px"][1])
    for name in good:
        torch.testing.assert_close(bad[name][[0, 2]], good[name][[0, 2]])


@every_wiring
@every_latent
@every_block
def test_dropout_acts_in_training_only(wiring, latent, blocks):
    model = make(wiring, latent, blocks, dropout=0.5)
    assert_same(run(model), run(model), rtol=0, atol=0)
    model.train()
    with dropping(model.dropouts, lambda purpose: source(3)):
        assert not torch.equal(run(model).log_px, run(model).log_px)
    without = make(wiring, latent, blocks, dropout=0.0)
    expected = run(without)
    assert_same(run(without.train()), expected, rtol=0, atol=0)


# --- Parameters ---------------------------------------------------------------------------------------


@every_wiring
@every_latent
@every_block
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_parameter_receives_a_gradient(wiring, latent, blocks, levels):
    """No part of the network is built and not used, at any depth."""
    model = make(wiring, latent, blocks, layers=LAYERS[:levels])
    surrogate_objective(run(model, count=4), -1e9).value.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


@every_wiring
def test_memory_values_are_those_of_every_node(wiring):
    model = make(wiring)
    values = model.memory_values()
    named = [parameter for name, parameter in model.named_parameters() if name.endswith("values_NKD")]
    assert {id(value) for value in values} == {id(parameter) for parameter in named}
    assert len(values) == len(model.nodes)
    assert make(wiring, "normal").memory_values() == []


@every_wiring
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_names_are_unique(wiring, levels):
    model = make(wiring, layers=LAYERS[:levels])
    names = [model.name(node) for node in model.nodes]
    assert len(set(names)) == len(names)
    if wiring != "biva":
        assert sorted(names) == [f"layer_{i}" for i in range(1, levels + 1)]


def test_names_of_biva():
    model = make("biva")
    names = ["layer_1_up", "layer_2_up", "layer_3", "layer_2_down", "layer_1_down"]
    assert [model.name(node) for node in model.nodes] == names


# --- Which contexts reach q and p ---------------------------------------------------------------------

UP, DOWN = ([Node(i, direction) for i in (1, 2, 3)] for direction in ("up", "down"))
SAMPLED = {
    "vae": UP,
    "skip_vae": UP,
    "lvae": DOWN[::-1],
    "skip_lvae": DOWN[::-1],
    "biva": [UP[0], UP[1], DOWN[2], DOWN[1], DOWN[0]],
}
FINITE = {"vae": [UP[2]], "skip_vae": [UP[2]], "lvae": DOWN, "skip_lvae": DOWN, "biva": DOWN}


def expected_in_p(wiring, node, source_node):
    """Whether p of `node` (level 0: the decoder) is to see `source_node`."""
    if wiring in ("vae", "lvae"):
        return source_node.level == node.level + 1
    return source_node.level > node.level


def expected_in_q(wiring, node, other):
    """Equations 17 to 22, with the image always given."""
    if wiring == "vae":
        return other.level == node.level - 1
    if wiring == "skip_vae":
        return other.level < node.level
    if wiring == "lvae":
        return other.level == node.level + 1
    if wiring == "skip_lvae":
        return other.level > node.level
    below_going_up = other.direction == "up" and other.level < node.level
    return below_going_up or (node.direction == "down" and other.level > node.level)


def values_of(model, latent, change=None):
    """Hard values of one image for every node; those of the node `change` are others."""
    offset = {node: int(node == change) for node in model.nodes}
    return {
        node: torch.full((1, model.layer(node).variables), offset[node])
        if latent == "categorical"
        else torch.full((1, model.layer(node).variables), 0.5 - offset[node], dtype=torch.float64)
        for node in model.nodes
    }


@every_wiring
@every_latent
@every_block
@torch.no_grad()
def test_contexts_are_those_of_the_table(wiring, latent, blocks):
    model = make(wiring, latent, blocks)
    x = some_images(1, (5, 4))
    assert list(model.nodes) == SAMPLED[wiring]
    base = model(x, values_of(model, latent), given)
    _, base_logits = model.score({layer.node: layer.draw for layer in base.layers})
    for changed in model.nodes:
        terms = model(x, values_of(model, latent, changed), given)
        _, logits = model.score({layer.node: layer.draw for layer in terms.layers})
        decoder = Node(0, "down")
        assert torch.equal(logits, base_logits) != expected_in_p(wiring, decoder, changed)
        for before, after in zip(base.layers, terms.layers, strict=True):
            q_same, p_same = (
                torch.equal(numbers_of(getattr(before, law)), numbers_of(getattr(after, law))) for law in "qp"
            )
            where = f"{changed} in {before.node}"
            assert p_same != expected_in_p(wiring, before.node, changed), f"p: {where}"
            assert q_same != expected_in_q(wiring, before.node, changed), f"q: {where}"


@every_wiring
@every_latent
@torch.no_grad()
def test_the_image_reaches_every_q_directly_but_in_the_plain_vae_and_no_p(wiring, latent):
    model = make(wiring, latent)
    x = some_images(2, (5, 4))
    one, other = (model(image.unsqueeze(0), values_of(model, latent), given) for image in x)
    for a, b in zip(one.layers, other.layers, strict=True):
        direct = wiring != "vae" or a.node.level == 1
        assert torch.equal(numbers_of(a.q), numbers_of(b.q)) != direct
        assert torch.equal(numbers_of(a.p), numbers_of(b.p))


@every_wiring
def test_where_the_kl_is_a_finite_sum(wiring):
    terms = run(make(wiring))
    assert {layer.node for layer in terms.layers if layer.finite_kl} == set(FINITE[wiring])


@every_wiring
@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_contexts_of_q_are_sampled_before(wiring, levels):
    """The order of sampling of `Wiring.nodes` is one in which q can be computed, at any depth."""
    nodes = WIRINGS[wiring].nodes(levels)
    assert len(set(nodes)) == len(nodes)
    assert {node.level for node in nodes} == set(range(1, levels + 1))
    for early, late in itertools.combinations(nodes, 2):
        assert not expected_in_q(wiring, early, late)
        if WIRINGS[wiring].prior_context_first(early, levels):
            assert not expected_in_p(wiring, early, late)


# --- The likelihood -----------------------------------------------------------------------------------


def test_bernoulli_log_prob_is_that_of_torch():
    x, logits = some_images(4, (3, 2)), torch.randn(4, 3, 2, dtype=torch.float64) * 5
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2))
    torch.testing.assert_close(bernoulli_log_prob(x, logits), expected)


def test_bernoulli_log_prob_is_finite_for_large_logits():
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    value = bernoulli_log_prob(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), logits)
    assert value.tolist() == [0.0, -2e4]


class Layouts(TorchDispatchMode):
    """Whether all that each kind of convolution got, inside it, was laid out channels last: features and gradients."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) in ("aten.convolution.default", "aten.convolution_backward.default"):
            features = args[:1] if str(func) == "aten.convolution.default" else args[:2]
            good = all(t.is_contiguous(memory_format=torch.channels_last) for t in features)
            self.seen[str(func)] = self.seen.get(str(func), True) and good
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wiring", sorted(WIRINGS))
def test_convolutions_get_and_give_features_channels_last(wiring):
    """Forward and backward, from the image to the pixels: one part that changed the layout would slow all others."""
    layers = tuple(LayerConfig(variables=2, classes=4) for _ in range(3))
    model = HDVAE(ModelConfig(wiring=wiring, blocks="conv", width=4, depth=1, dropout=0.0, layers=layers), (12, 12))
    layouts = Layouts()
    x = some_images(3, (12, 12)).float()
    with layouts:
        terms = model(x, model.noise(source(len(x), dtype=torch.float32)), relaxed(0.5))
        (terms.log_px.sum() - sum(layer.q.kl(layer.p).sum() for layer in terms.layers)).backward()
    assert layouts.seen == {"aten.convolution.default": True, "aten.convolution_backward.default": True}
