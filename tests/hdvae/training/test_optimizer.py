"""Adamax by rows: dense Adamax where every row is read, and nothing at all where none is."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from hdvae.latents.sparse_reads import of_rows
from hdvae.training.optimizer import Adamax, Group, clip_gradients, entries, total_norm

N, K, D = 2, 6, 3


def parameter(seed=0):
    return nn.Parameter(torch.randn(N, K, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def gradient(step):
    return torch.randn(N, K, D, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + step))


def some_rows(dense, rows):
    rows = torch.tensor(rows)
    return of_rows(rows, dense.flatten(0, 1)[rows], dense.shape)


def adamax(values, gradients, rate=0.02):
    """Algorithm 2 of Kingma and Ba, number by number."""
    average = largest = torch.zeros_like(values)
    for t, g in enumerate(gradients, 1):
        average = 0.9 * average + 0.1 * g
        largest = torch.maximum(0.999 * largest, g.abs() + 1e-8)
        values = values - rate / (1 - 0.9**t) * average / largest
    return values


def test_where_every_row_is_read_it_is_dense_adamax():
    by_rows, plain, other = parameter(), parameter(), parameter(1)
    optimizer = Adamax([Group([by_rows, other], 0.02)])
    reference = torch.optim.Adamax([{"params": [plain], "lr": 0.02}])
    before = other.detach().clone()
    for step in range(20):
        by_rows.grad, plain.grad = some_rows(gradient(step), list(range(N * K))), gradient(step)
        other.grad = gradient(step)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(by_rows, plain)
    torch.testing.assert_close(by_rows.detach(), adamax(parameter().detach(), [gradient(s) for s in range(20)]))
    torch.testing.assert_close(other.detach(), adamax(before, [gradient(s) for s in range(20)])), "dense ones as ever"


def test_every_row_has_a_history_of_its_own():
    """A row that is read in some steps moves as if these had been all."""
    values = parameter()
    optimizer = Adamax([Group([values], 0.02)])
    read = {0: [0, 1, 4, 7, 9], 7: [1, 3], 11: [9]}
    start = values.detach().clone()
    for step in range(10):
        rows = [row for row in sorted(read) if step in read[row]]
        before = values.detach().clone().flatten(0, 1)
        values.grad = some_rows(gradient(step), rows) if rows else None
        optimizer.step()
        moved = (values.detach().flatten(0, 1) != before).any(1).nonzero().flatten().tolist()
        assert moved == rows
    for row in range(N * K):
        history = [gradient(step).flatten(0, 1)[row] for step in read.get(row, [])]
        torch.testing.assert_close(values.detach().flatten(0, 1)[row], adamax(start.flatten(0, 1)[row], history))
    assert optimizer.state[values]["row_step"].flatten().tolist() == [len(read.get(row, [])) for row in range(N * K)]


def test_a_gradient_of_zero_does_no_harm():
    values = parameter()
    before = values.detach().clone()
    values.grad = some_rows(torch.zeros(N, K, D, dtype=torch.float64), [2])
    Adamax([Group([values], 2e-3)]).step()
    assert torch.equal(values.detach(), before)
    assert values.grad.is_sparse, "the gradient is left as it was"


@pytest.mark.parametrize("most", [0.1, 1e6])
def test_norm_and_clipping_are_those_of_the_dense_gradients(most):
    sparse, dense = parameter(), parameter()
    plain = [parameter(), parameter()]
    sparse.grad, dense.grad = some_rows(gradient(0), [1, 5, 9]), gradient(1)
    plain[0].grad, plain[1].grad = sparse.grad.to_dense(), gradient(1)
    norm = total_norm([sparse.grad, dense.grad])
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm([p.grad for p in plain]))
    clip_gradients([sparse, dense, parameter()], most, norm)
    torch.nn.utils.clip_grads_with_norm_(plain, most, norm)
    torch.testing.assert_close(sparse.grad.to_dense(), plain[0].grad)
    torch.testing.assert_close(dense.grad, plain[1].grad)


def test_entries_share_the_memory_of_the_gradient():
    sparse = some_rows(gradient(0), [3])
    entries(sparse).zero_()
    assert (sparse.to_dense() == 0).all()


def test_dense_parameters_move_bit_for_bit_as_with_torchs_own():
    """Several at two rates that change, one of them without a gradient in some steps."""
    ours, theirs = ([parameter(seed).detach().float().requires_grad_() for seed in range(3)] for _ in range(2))
    optimizer = Adamax([Group(ours[:2], 0.0), Group(ours[2:], 0.0)])
    reference = torch.optim.Adamax([{"params": theirs[:2]}, {"params": theirs[2:]}], foreach=True)
    for step in range(10):
        optimizer.forget_gradients()
        assert all(one.grad is None for one in ours)
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            given = None if i == 1 and step % 3 == 0 else gradient(10 * step + i).float()
            one.grad, other.grad = given, given
        for group, plain, rate in zip(optimizer.groups, reference.param_groups, (0.1 / (1 + step), 0.02), strict=True):
            group.rate, plain["lr"] = rate, rate
        optimizer.step()
        reference.step()
    assert all(map(torch.equal, ours, theirs))
    assert [int(optimizer.state[one]["step"]) for one in ours] == [10, 6, 10]


def test_training_does_not_import_torchs_compiler():
    """It would take every process that trains more than two seconds."""
    code = (
        "import sys, torch\n"
        "from hdvae.training.optimizer import Adamax, Group\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "weight.sum().backward()\n"
        "Adamax([Group([weight], 0.1)]).step()\n"
        "assert weight[0] < 1\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
