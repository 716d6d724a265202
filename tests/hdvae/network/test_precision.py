"""The precision of products: what is reduced, and what is not."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hdvae.evaluation.evaluation import evaluate
from hdvae.experiment.experiment import EvaluationConfig
from hdvae.network import precision
from hdvae.network.precision import precision_caveat, products_in
from hdvae.training.state import TrainState
from hdvae.training.step import step_objective, train_step
from tests.hdvae.oracle import CPU
from tests.hdvae.training.sessions import IMAGE, experiment_of, objective_of

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
CONVOLUTIONS = {"blocks": "conv", "width": 8, "depth": 1}
BOUND = {"objective": "relaxed_elbo", "kappa": "local"}


class Products(TorchDispatchMode):
    """The types of what products are given, and of all tensors."""

    def __init__(self):
        super().__init__()
        self.products, self.all = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        kinds = {leaf.dtype for leaf in tree_leaves([args, out]) if isinstance(leaf, torch.Tensor)}
        self.all |= kinds
        if func.overloadpacket.__name__ in PRODUCTS:
            self.products |= kinds
        return out


def state_of(experiment):
    return TrainState.fresh(experiment, IMAGE, 3, CPU)


def images(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.bernoulli(torch.full((16, *IMAGE), 0.5)).to(dtype)


def gradient(kind, wiring, network):
    """Objective and gradient of a step in a precision."""
    state = state_of(experiment_of(wiring, dropout=0.0, **network))
    with products_in(kind, state.model.parts):
        objective = objective_of(state, images(), 0.7, 0.0).model
        objective.value.backward()
    return objective.value.item(), torch.cat([p.grad.flatten() for p in state.model.parameters()])


@pytest.mark.parametrize("wiring", ["skip_lvae", "biva"])
@pytest.mark.parametrize("network", [{}, CONVOLUTIONS], ids=["dense", "conv"])
def test_value_and_gradient_are_near_those_of_float32(network, wiring):
    """Of the arguments of a product eight bits are kept; `test_step.py` holds float32 against float64."""
    expected, reference = gradient("float32", wiring, network)
    value, reduced = gradient("bfloat16", wiring, network)
    assert reduced.dtype == torch.float32
    assert 2e-4 < (reduced - reference).norm() / reference.norm() < 5e-2
    assert value == pytest.approx(expected, rel=1e-2)
    value, same = gradient("tf32", wiring, network)
    assert value == expected, "a processor has no TF32"
    assert torch.equal(same, reference)


def test_what_is_no_product_keeps_its_precision():
    state = state_of(experiment_of(precision="bfloat16", dropout=0.0))
    with products_in("bfloat16", state.model.parts):
        objective = objective_of(state, images(), 0.7, 0.0)
    for layer in objective.terms.layers:
        tensors = [*layer.q.parts, *layer.p.parts, layer.draw.scores, layer.draw.soft, layer.draw.read]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert objective.terms.log_px.dtype == torch.float32
    train_step(state, images())
    assert {tensor.dtype for tensor in state.model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("choice", [{}, CONVOLUTIONS, BOUND], ids=["dense", "conv", "bound"])
def test_evaluations_and_certificates_are_in_float32(choice):
    """The local bound of a step looks through the decoder; its products would be the only ones besides the step's."""
    state = state_of(experiment_of(precision="bfloat16", **choice))
    with Products() as seen:
        train_step(state, images())
    assert torch.bfloat16 in seen.products
    with Products() as seen:
        evaluate(state.model, images(), EvaluationConfig(draws=2, samples=2, kappa="local"), seed=0, importance=True)
    assert torch.bfloat16 not in seen.all
    assert torch.float32 in seen.products


def test_a_bound_inside_a_step_is_in_float32(monkeypatch):
    during = []

    def look(model, *arguments):
        during.extend(part.products for part in model.parts)
        return real(model, *arguments)

    real = step_objective.__globals__["local_bound"]
    monkeypatch.setitem(step_objective.__globals__, "local_bound", look)
    train_step(state_of(experiment_of(precision="bfloat16", **BOUND)), images())
    assert during
    assert set(during) == {None}


@pytest.mark.parametrize(
    ("kind", "expected"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")], ids=lambda value: value
)
def test_gpus_are_told_while_a_step_is_taken(monkeypatch, kind, expected):
    """By default PyTorch's convolutions are in TF32 on a GPU. After the step everything is as it was."""
    cudnn, cublas = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before, during = (cudnn.fp32_precision, cublas.fp32_precision), []
    real = torch.autograd.backward

    def look(*arguments, **options):
        during.append((cudnn.fp32_precision, cublas.fp32_precision))
        return real(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "backward", look)
    train_step(state_of(experiment_of(precision=kind)), images())
    assert during == [(expected, expected)]
    assert (cudnn.fp32_precision, cublas.fp32_precision) == before


def test_a_step_that_fails_leaves_no_part_in_another_precision():
    state = state_of(experiment_of(precision="bfloat16"))
    with pytest.raises(RuntimeError), products_in("bfloat16", state.model.parts):
        raise RuntimeError
    assert {part.products for part in state.model.parts} == {None}


def test_caveats_where_a_precision_makes_nothing_faster(monkeypatch):
    def of(kind, **capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        return precision_caveat(kind, CPU)

    assert of("float32") is None
    assert of("bfloat16", avx512_bf16=True, amx_bf16=False) is None
    assert "slower on this processor" in of("bfloat16", avx2=True, avx512_bf16=False)
    assert "for GPUs" in of("tf32", avx512_bf16=True)
    for major, count in ((8, 0), (7, 2)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, major=major: (major, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
        caveats = [precision_caveat(kind, torch.device("cuda")) for kind in ("tf32", "bfloat16")]
        assert sum(caveat is not None and "Some GPU" in caveat for caveat in caveats) == count


def test_products_are_in_the_type_of_the_arguments_outside():
    x = torch.ones(2)
    assert precision.for_products(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert precision.for_products(x).dtype == torch.bfloat16
