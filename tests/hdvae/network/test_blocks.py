"""Both trunks pass the same suite; then what is special to convolutions."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import elu
from torch.nn.utils import parametrize

from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.network.blocks import ConvTrunk, DenseTrunk, GatedResidual, ImageConvolution, _Gated, trunk
from hdvae.network.dropout import Dropout, dropping
from tests.hdvae.oracle import source

CONVOLUTIONS = nn.Conv2d | nn.ConvTranspose2d
IMAGES = [(28, 28), (7, 5), (1, 1), (2, 9)]
every_trunk = pytest.mark.parametrize("blocks", ["conv", "dense"])


def config_of(blocks="conv", depth=1, dropout=0.0, layers=None, **settings):
    layers = layers or [LayerConfig(variables=1)] * 3
    return ModelConfig(blocks=blocks, width=3, depth=depth, dropout=dropout, layers=tuple(layers), **settings)


def make(blocks, image=(7, 5), **settings):
    torch.manual_seed(0)
    return trunk(config_of(blocks, **settings), image)


def features(build, level, batch=2):
    return torch.randn(batch, *build.feature_shape(level))


def parts(build, image):
    """Every part of levels 1 … 3 with an input that fits and the shape that it should give."""
    for level in (1, 2, 3):
        below = torch.randn(2, *image) if level == 1 else features(build, level - 1)
        yield build.up(level), below, build.feature_shape(level)
        yield build.down(level - 1), features(build, level), build.feature_shape(level - 1)
        merged = torch.cat([features(build, level), features(build, level)], 1)
        yield build.merge(level), merged, build.feature_shape(level)
        yield build.posterior(level, 11), features(build, level), (11,)
        yield build.prior(level, 11), features(build, level), (11,)
        yield build.expand_up(level, 5), torch.randn(2, 5), build.feature_shape(level)
        yield build.expand_down(level, 5), torch.randn(2, 5), build.feature_shape(level)
    yield build.logits(), features(build, 0), image


@every_trunk
@pytest.mark.parametrize("image", IMAGES)
def test_shapes(blocks, image):
    build = make(blocks, image)
    for part, value, shape in parts(build, image):
        assert part(value).shape == (2, *shape)
        assert part(value[:1]).shape == (1, *shape)


@every_trunk
def test_parts_use_all_of_their_input_and_all_of_their_parameters(blocks):
    for part, value, _ in parts(make(blocks), (7, 5)):
        value.requires_grad_()
        part(value).square().sum().backward()
        assert (value.grad != 0).all()
        for name, parameter in part.named_parameters():
            assert (parameter.grad != 0).any(), name


@every_trunk
def test_images_do_not_touch_each_other(blocks):
    for part, value, _ in parts(make(blocks), (7, 5)):
        value = torch.cat([value, value.flip(0)])
        torch.testing.assert_close(part(value)[[2, 0]], part(value[[2, 0]]))


@every_trunk
@pytest.mark.parametrize("depth", [1, 3])
def test_depth_is_the_number_of_gated_blocks(blocks, depth):
    build = make(blocks, depth=depth)
    for part in (build.up(1), build.up(2), build.down(0), build.down(2)):
        assert sum(isinstance(module, GatedResidual) for module in part.modules()) == depth


@every_trunk
def test_dropout_acts_in_connections_and_in_training_only(blocks):
    build = make(blocks, dropout=0.5)
    for part, value in ((build.up(2), features(build, 1)), (build.down(1), features(build, 2))):
        dropouts = [module for module in part.modules() if isinstance(module, Dropout)]
        with dropping(dropouts, lambda purpose: source(2)):
            assert not torch.equal(part(value), part(value))
        part.eval()
        assert torch.equal(part(value), part(value))


def normalised_maps(build):
    """How many maps of the connections and merges have weight normalisation, and how many there are."""
    connections = (build.up(1), build.up(2), build.down(0), build.down(1), build.merge(1))
    maps = [m for part in connections for m in part.modules() if isinstance(m, nn.Linear | CONVOLUTIONS)]
    return sum(parametrize.is_parametrized(map_, "weight") for map_ in maps), len(maps)


@every_trunk
def test_weight_normalisation_is_an_option(blocks):
    for settings, expected in (({}, True), ({"weight_norm": True}, True), ({"weight_norm": False}, False)):
        normalised, all_ = normalised_maps(make(blocks, **settings))
        assert normalised == (all_ if expected else 0)


@pytest.mark.parametrize("decoder", ["free", "lipschitz"])
@every_trunk
def test_a_connection_starts_with_a_map_only_where_the_shape_changes(blocks, decoder):
    """With blocks that do nothing, such a connection is the identity: nothing cuts the stream of features."""
    build = make(
        blocks, decoder=decoder, weight_norm=False, layers=[LayerConfig(variables=1, stride=s) for s in (2, 1, 1)]
    )
    for part, level in ((build.up(2), 1), (build.up(3), 2), (build.down(1), 2), (build.down(2), 3)):
        assert len(list(part.children())) == build.config.depth
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.zero_()
        value = features(build, level)
        assert torch.equal(part(value), value)


def test_connections_of_another_resolution_start_with_a_map():
    build = make("conv", layers=[LayerConfig(variables=1, stride=2)] * 3)
    for part in (build.up(1), build.up(2), build.up(3), build.down(0), build.down(1), build.down(2)):
        assert not isinstance(next(part.children()), GatedResidual)


@every_trunk
def test_weight_normalisation_of_connections_and_merges(blocks):
    """‖w‖ of each output is a parameter of its own, and starts at the norm of the direction."""
    build = make(blocks, weight_norm=True)
    for part in (build.up(1), build.up(2), build.down(0), build.down(1), build.merge(1)):
        maps = [m for m in part.modules() if isinstance(m, nn.Linear | CONVOLUTIONS)]
        assert maps
        for map_ in maps:
            assert parametrize.is_parametrized(map_, "weight")
            axis = 1 if isinstance(map_, nn.ConvTranspose2d) else 0
            size, direction = map_.parametrizations.weight.original0, map_.parametrizations.weight.original1
            assert size.shape[axis] == direction.shape[axis]
            assert size.numel() == direction.shape[axis]
            with torch.no_grad():
                before = map_.weight.clone()
                size.mul_(2.0)
                torch.testing.assert_close(map_.weight, 2 * before)
                direction.mul_(3.0)
                torch.testing.assert_close(map_.weight, 2 * before)


@every_trunk
def test_trunk_of_the_configuration(blocks):
    assert isinstance(make(blocks), ConvTrunk if blocks == "conv" else DenseTrunk)


# --- The gated residual block ------------------------------------------------------------------------


def test_gated_residual_is_its_formula():
    torch.manual_seed(0)
    inner, outer, x = nn.Linear(4, 4), nn.Linear(4, 8), torch.randn(3, 4)
    block = GatedResidual(inner, outer, 0.5).eval()
    a, b = outer(elu(inner(elu(x)))).split(4, 1)
    torch.testing.assert_close(block(x), x + a * torch.sigmoid(b))


@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 4, 5)])
def test_the_gradient_of_a_gate_is_that_of_its_formula(shape):
    """Value and gradient in float64, in both memory layouts of an image."""
    generator = torch.Generator().manual_seed(0)
    halves = torch.randn(shape, dtype=torch.float64, generator=generator)
    x = torch.randn(shape[0], 3, *shape[2:], dtype=torch.float64, generator=generator)
    for layout in [torch.contiguous_format] + [torch.channels_last] * (len(shape) == 4):
        own = [t.contiguous(memory_format=layout).requires_grad_() for t in (x, halves)]
        a, b = own[1].chunk(2, 1)
        expected, gated = own[0] + a * b.sigmoid(), _Gated.apply(*own)
        torch.testing.assert_close(gated, expected)
        got, wanted = (torch.autograd.grad(out.exp().sum(), own) for out in (gated, expected))
        torch.testing.assert_close(got, wanted)
        assert all(gradient.is_contiguous(memory_format=layout) for gradient in got)
        assert torch.autograd.gradcheck(_Gated.apply, own)
        assert torch.autograd.gradgradcheck(_Gated.apply, own), "the local Lipschitz bound differentiates twice"


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("image", [(28, 28), (7, 5), (6, 9)])
def test_the_convolution_of_an_image_is_one(kernel, stride, image):
    torch.manual_seed(0)
    convolution = ImageConvolution(4, kernel, stride).double()
    x = torch.randn(3, 1, *image, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.conv2d(x, convolution.weight, convolution.bias, stride, kernel // 2)
    out = convolution(x)
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)
    inputs = [x, *convolution.parameters()]
    got, wanted = (torch.autograd.grad(y.sin().sum(), inputs) for y in (out, expected))
    torch.testing.assert_close(got, wanted)


def test_closed_gate_passes_its_input():
    block = GatedResidual(nn.Linear(4, 4), nn.Linear(4, 8), 0.0)
    with torch.no_grad():
        block.outer.bias[4:] = -200.0
    x = torch.randn(3, 4)
    assert torch.equal(block(x), x)


# --- Convolutions -------------------------------------------------------------------------------------


def test_default_resolutions_are_those_of_the_paper():
    build = make("conv", (28, 28), layers=[LayerConfig(variables=1)] * 4)
    assert build.sizes == [(28, 28), (14, 14), (7, 7), (7, 7), (7, 7)]


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("image", [(28, 28), (7, 5)])
def test_any_stride_and_kernel_keeps_its_resolutions(stride, kernel, image):
    layer = LayerConfig(variables=1, stride=stride, kernel=kernel)
    build = make("conv", image, layers=[layer] * 2)
    for level in (1, 2):
        h, w = build.sizes[level - 1]
        assert build.sizes[level] == (math.ceil(h / stride), math.ceil(w / stride))
        below = torch.randn(1, *image) if level == 1 else features(build, 1, batch=1)
        assert build.up(level)(below).shape[1:] == build.feature_shape(level)
        assert build.down(level - 1)(features(build, level, batch=1)).shape[1:] == build.feature_shape(level - 1)


def test_kernel_of_a_level_is_that_of_both_its_connections():
    build = make("conv", layers=[LayerConfig(variables=1, kernel=5), LayerConfig(variables=1, kernel=1)])
    assert build.up(1)[1].kernel_size == build.down(0)[0].map.kernel_size == (5, 5)
    assert build.up(2)[0].kernel_size == build.down(1)[0].map.kernel_size == (1, 1)
    assert build.up(1)[1].stride == build.down(0)[0].map.stride == (2, 2)


def test_convolutions_see_neighbours_only():
    """A pixel far from another does not touch its features: 1 strided map and 2 maps of a block, 3 × 3."""
    build = make("conv", (40, 40))
    up, x = build.up(1), torch.zeros(1, 40, 40)
    moved = x.clone()
    moved[0, 0, 0] = 1.0
    changed = (up(x) != up(moved)).any(1)[0]
    assert changed[0, 0]
    assert not changed[4:].any()
    assert not changed[:, 4:].any()
