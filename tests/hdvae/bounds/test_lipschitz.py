"""Certified constants against gradients at random points, on adversarial ascents, and against explicit Jacobians."""

import math
import re

import pytest
import torch

from hdvae.bounds.lipschitz import certify, key_constant, propagate_hulls, value_norm
from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.latents.distributions import Draw
from hdvae.network.blocks import trunk
from hdvae.network.model import HDVAE
from hdvae.network.terms import bernoulli_log_prob
from hdvae.network.wiring import WIRINGS
from tests.hdvae.oracle import build, small_config, some_images

POINTS = 10_000
SLOPE = "slope of log p(x|·) in the logits"
KINDS = [
    (wiring, blocks, decoder) for wiring in WIRINGS for blocks in ("dense", "conv") for decoder in ("free", "lipschitz")
]
every_kind = pytest.mark.parametrize(("wiring", "blocks", "decoder"), KINDS)


def make(wiring="skip_lvae", blocks="dense", decoder="free", levels=2, seed=0, **changes):
    config = small_config(wiring, levels, blocks=blocks, decoder=decoder, width=4, decoder_scale=3.0, **changes)
    return build(config, (3, 4), seed=seed, contrast=2.0, memory=2.0)


def simplex(model, count, seed=0, sharpness=None):
    """Points of the product of simplices for each node, from the middle to the corners."""
    random = torch.Generator().manual_seed(seed)
    points = {}
    for node in model.nodes:
        layer = model.layer(node)
        logits = torch.randn(count, layer.variables, layer.classes, generator=random, dtype=torch.float64)
        scale = 10 ** torch.empty(count, 1, 1, dtype=torch.float64).uniform_(-1, 1.5, generator=random)
        points[node] = (logits * (scale if sharpness is None else sharpness)).softmax(-1)
    return points


def functions(model, x, points):
    """Log p(x|·), and log p of random classes of each layer, with the reads to differentiate in."""
    reads = {node: model.layer(node).read(z).detach().requires_grad_() for node, z in points.items()}
    hard = {node: z.argmax(-1) for node, z in points.items()}
    priors, logits = model.score({node: Draw(hard[node], reads[node]) for node in points})
    laws = {node: priors[node].log_prob(hard[node].flip(0)) for node in points}
    return reads, bernoulli_log_prob(x, logits), laws, logits


def norms(function, reads, values):
    """Gradient norms in each layer's reads and, through its values, in its relaxed sample; (B,) each."""
    found = torch.autograd.grad(function.sum(), list(reads.values()), retain_graph=True, allow_unused=True)
    out = {}
    for node, gradient in zip(reads, found, strict=True):
        if gradient is not None:
            per_variable = gradient.view(len(gradient), len(values[node]), -1)
            in_z = torch.einsum("bnd,nkd->bnk", per_variable, values[node]).flatten(1)
            out[node] = (gradient.norm(dim=1), in_z.norm(dim=1))
    return out


def assert_below(model, x, points, certificate):
    values = {node: model.layer(node).values_NKD.detach() for node in points}
    reads, likelihood, laws, logits = functions(model, x, points)
    assert (logits >= certificate.logits.low - 1e-9).all()
    assert (logits <= certificate.logits.high + 1e-9).all()
    assert ((logits - certificate.logits.centre).flatten(1).norm(dim=1) <= certificate.logits.radius + 1e-9).all()
    largest = 0.0
    for constants, function in [
        (certificate.likelihood(x), likelihood),
        *((certificate.priors.get(node, {}), law) for node, law in laws.items()),
    ]:
        found = norms(function, reads, values)
        assert set(found) == set(constants)  # the contexts are what the wiring says
        for node, (in_read, in_z) in found.items():
            bound = torch.as_tensor(constants[node])
            assert (in_read <= bound * (1 + 1e-9)).all()
            assert (in_z <= bound * certificate.values[node] * (1 + 1e-9)).all()
            largest = max(largest, (in_read / bound).max().item())
    return largest


@every_kind
def test_no_gradient_at_random_points_is_above_the_certified_constant(wiring, blocks, decoder):
    count = POINTS // len(KINDS) // 2
    for levels in (1, 2):
        model = make(wiring, blocks, decoder, levels, seed=levels)
        with torch.no_grad():
            certificate = certify(model)
        x = some_images(count, (3, 4))
        assert assert_below(model, x, simplex(model, count), certificate) > 1e-4


def test_ten_thousand_points_of_one_model():
    model = make("skip_lvae", levels=2, seed=7)
    with torch.no_grad():
        certificate = certify(model)
    assert_below(model, some_images(POINTS, (3, 4)), simplex(model, POINTS, seed=1), certificate)


@every_kind
def test_adversarial_ascents_stay_below(wiring, blocks, decoder):
    """Climb the gradient's norm over the simplex and the weights' signs of the image."""
    model = make(wiring, blocks, decoder, seed=3)
    with torch.no_grad():
        certificate = certify(model)
    start = {node: z.clamp(min=1e-6).log() for node, z in simplex(model, 16, seed=2, sharpness=1.0).items()}
    free = [logits.requires_grad_() for logits in start.values()]
    x = some_images(16, (3, 4))
    optimizer = torch.optim.Adam(free, lr=0.3)
    for _ in range(25):
        reads = {node: model.layer(node).read(z.softmax(-1)) for node, z in start.items()}
        _, logits = model.score({node: Draw(reads[node][:, :0], reads[node]) for node in reads})
        deciding = [reads[node] for node in certificate.decoder]
        gradients = torch.autograd.grad(bernoulli_log_prob(x, logits).sum(), deciding, create_graph=True)
        optimizer.zero_grad()
        (-sum(g.square().sum() for g in gradients)).backward()
        optimizer.step()
    points = {node: z.detach().softmax(-1) for node, z in start.items()}
    assert_below(model, x, points, certificate)


@pytest.mark.parametrize("decoder", ["free", "lipschitz"])
@pytest.mark.parametrize("blocks", ["dense", "conv"])
def test_the_model_of_the_paper_in_float32(blocks, decoder):
    """28 × 28, factored keys, float32 weights, as training leaves them: contained and below, to rounding."""
    layers = (LayerConfig(variables=4, classes=16), LayerConfig(variables=2, classes=9))
    torch.manual_seed(0)
    model = HDVAE(ModelConfig(blocks=blocks, width=8, depth=2, decoder=decoder, layers=layers), (28, 28)).eval()
    with torch.no_grad():
        certificate = certify(model)
        assert certificate.logits.low.dtype == torch.float64
    double = model.double()
    assert_below(double, some_images(64, (28, 28)), simplex(double, 64), certificate)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_left(training):
    model = make()
    with torch.no_grad():
        expected = certify(model).constants()
        model.train(training)
        assert certify(model).constants() == expected
    assert model.training == training


def test_a_lipschitz_decoder_is_one_lipschitz_times_its_scale():
    for wiring in WIRINGS:
        for blocks in ("dense", "conv"):
            model = make(wiring, blocks, "lipschitz")
            with torch.no_grad():
                by_theorem, tight = certify(model, tight=False), certify(model)
            for node, constant in by_theorem.decoder.items():
                assert constant.item() == pytest.approx(3.0, rel=1e-6)
                assert 0 < tight.decoder[node].item() <= 3.0 * (1 + 1e-6)


def test_normal_variables_have_no_certificate():
    with pytest.raises(TypeError, match="must be categorical"):
        certify(build(small_config("skip_lvae", 2, latent="normal")))


# --- Parts --------------------------------------------------------------------------------------------------


def test_the_constant_of_one_layer_is_the_product_of_its_parts():
    model = make(levels=1)
    with torch.no_grad():
        certificate = certify(model)
    names = {part.name: part.constant for part in certificate.parts}
    product = math.prod(value for name, value in names.items() if not name.startswith(("values", "slope")))
    assert certificate.decoder[model.nodes[0]].item() == pytest.approx(product)
    assert set(names) == {
        "level 1: expand",
        "level 1: down.0",
        "logits.1",
        SLOPE,
        "values of layer_1",
    }
    kappa = certificate.constants()
    in_reads, in_z = kappa["log p(x|·) in the reads of layer_1"], kappa["log p(x|·) in z̃ of layer_1"]
    assert in_z == pytest.approx(in_reads * names["values of layer_1"])
    assert in_reads == pytest.approx(product * names[SLOPE])


@pytest.mark.parametrize("blocks", ["dense", "conv"])
def test_the_box_behind_the_memories_is_exact(blocks):
    """Over all combinations of slots; the extremes of a linear map are at the corners of the hulls."""
    config = ModelConfig(blocks=blocks, width=3, layers=(LayerConfig(variables=1),))
    torch.manual_seed(0)
    module = trunk(config, (4, 4)).expand_down(1, 6).double()
    values = [torch.randn(2, 3, 2).double(), torch.randn(1, 4, 2).double()]
    with torch.no_grad():
        passage = propagate_hulls(module, values, True)
        slots = [values[0][0], values[0][1], values[1][0]]
        corners = torch.stack([torch.cat([a, b, c]) for a in slots[0] for b in slots[1] for c in slots[2]])
        reached = module(corners)
    torch.testing.assert_close(passage.region.low, reached.amin(0))
    torch.testing.assert_close(passage.region.high, reached.amax(0))
    assert ((reached - passage.region.centre).flatten(1).norm(dim=1) <= passage.region.radius + 1e-12).all()


def test_keys_and_values_by_hand():
    layer = make(levels=1).layer(make(levels=1).nodes[0])
    keys = layer.keys_PNMQ.detach()
    longest = sum(torch.cdist(keys[p, n], keys[p, n]).max().square() for p in range(2) for n in range(layer.variables))
    assert key_constant(layer).item() == pytest.approx(longest.sqrt().item())
    exact = max(torch.linalg.matrix_norm(values, 2).item() for values in layer.values_NKD.detach())
    assert value_norm(layer).item() == pytest.approx(exact)


def test_slope_by_hand():
    model = make(levels=1)
    with torch.no_grad():
        certificate = certify(model)
    x = some_images(5, (3, 4))
    low, high = certificate.logits.low, certificate.logits.high
    by_hand = torch.stack(
        [torch.where(image > 0, 1 - low.sigmoid(), high.sigmoid()).norm() for image in x]  # |x − σ| at its largest
    )
    torch.testing.assert_close(certificate.slope(x), by_hand)
    assert (certificate.slope(x) <= certificate.steepest).all()


@pytest.mark.parametrize("decoder", ["free", "lipschitz"])
def test_certificates_are_differentiable(decoder):
    """A learned scale, the keys and the values, and every weight of the generative network have a finite gradient."""
    model = make(decoder=decoder)
    certificate = certify(model)
    total = certificate.likelihood(some_images(2, (3, 4)))
    sum(k.sum() for k in total.values()).backward()
    generative = r"expand_down|levels\.\d\.down|^logits|values_NKD"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
        elif decoder == "free" and re.search(generative, name):
            raise AssertionError(f"no gradient in {name}")


def test_gradient_of_the_certificate_is_that_of_finite_differences():
    model = make(levels=2)
    x = some_images(2, (3, 4))

    def bound():
        certificate = certify(model)
        return sum(k.sum() for k in certificate.likelihood(x).values()) + sum(
            k for context in certificate.priors.values() for k in context.values()
        )

    model.zero_grad()
    bound().backward()
    random, step = torch.Generator().manual_seed(5), 1e-6
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        direction = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        with torch.no_grad():
            parameter.add_(step * direction)
            above = bound()
            parameter.sub_(2 * step * direction)
            below = bound()
            parameter.add_(step * direction)
        difference = ((above - below) / (2 * step)).item()
        assert (parameter.grad * direction).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-4), name
