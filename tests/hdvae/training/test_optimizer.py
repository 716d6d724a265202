"""Adamax by rows: dense Adamax where every row is read, and nothing at all where none is."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from hdvae.latents.sparse_reads import of_rows
from hdvae.training.optimizer import CACHED, Adamax, Group, clip, entries, total_norm

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
    buffers, rows = Adamax([Group([sparse, dense], 0.1)]).collect()
    gradients = [*buffers, *rows]
    norm = total_norm(gradients)
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm([p.grad for p in plain]))
    changed = clip(gradients, most, norm)
    assert changed == (most < norm)
    torch.nn.utils.clip_grads_with_norm_(plain, most, norm)
    torch.testing.assert_close(sparse.grad.to_dense(), plain[0].grad)
    torch.testing.assert_close(dense.grad, plain[1].grad)


def test_entries_share_the_memory_of_the_gradient():
    sparse = some_rows(gradient(0), [3])
    entries(sparse).zero_()
    assert (sparse.to_dense() == 0).all()


def some_parameters():
    """Of several shapes, one of them larger than the block of an update."""
    shapes = [(N, K, D), (), (CACHED + 3,), (2, 5)]
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients_of(parameters, step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in parameters]


def test_dense_parameters_move_bit_for_bit_as_with_torchs_own():
    """At two rates that change; a transposed gradient, as products of matrices give it, is one like any other."""
    ours, theirs = some_parameters(), some_parameters()
    optimizer = Adamax([Group(ours[:2], 0.0), Group(ours[2:], 0.0)])
    reference = torch.optim.Adamax([{"params": theirs[:2]}, {"params": theirs[2:]}], foreach=True)
    for step in range(10):
        optimizer.forget_gradients()
        assert all(one.grad is None for one in ours)
        for one, other, given in zip(ours, theirs, gradients_of(ours, step), strict=True):
            one.grad, other.grad = given.mT.contiguous().mT if given.dim() == 2 else given, given
        for group, plain, rate in zip(optimizer.groups, reference.param_groups, (0.1 / (1 + step), 0.02), strict=True):
            group.rate, plain["lr"] = rate, rate
        optimizer.step()
        reference.step()
    assert all(map(torch.equal, ours, theirs))
    for one, other in zip(ours, theirs, strict=True):
        assert int(optimizer.state[one]["step"]) == 10
        assert torch.equal(optimizer.state[one]["average"], reference.state[other]["exp_avg"])


def test_what_is_done_to_collected_gradients_moves_the_parameters():
    ours = some_parameters()
    before = [one.detach().clone() for one in ours]
    optimizer = Adamax([Group(ours, 0.1)])
    for one, given in zip(ours, gradients_of(ours, 0), strict=True):
        one.grad = given
    (gradients,), rows = optimizer.collect()
    assert not rows
    assert torch.equal(gradients, torch.cat([given.flatten() for given in gradients_of(ours, 0)]))
    gradients.zero_()
    assert not any(one.grad.any() for one in ours)
    optimizer.step()
    assert all(map(torch.equal, ours, before))


def test_a_restored_optimizer_goes_on_bit_for_bit():
    """Dense and by rows; what was restored is a copy."""
    runs = []
    for interrupted in (False, True):
        ours, table = some_parameters(), parameter()
        optimizer = Adamax([Group(ours, 0.1), Group([table], 0.02)])
        for step in range(6):
            if interrupted and step == 3:
                state = {p: {key: value.clone() for key, value in m.items()} for p, m in optimizer.state.items()}
                optimizer = Adamax([Group(ours, 0.1), Group([table], 0.02)])
                optimizer.restore(state)
            optimizer.forget_gradients()
            for one, given in zip(ours, gradients_of(ours, step), strict=True):
                one.grad = given
            table.grad = some_rows(gradient(step), [step, 7])
            optimizer.step()
        runs.append([*ours, table, *(value for moments in optimizer.state.values() for value in moments.values())])
    assert all(map(torch.equal, *runs))


def test_a_gradient_that_is_missing_is_no_gradient_of_zero():
    ours = some_parameters()
    optimizer = Adamax([Group(ours, 0.1)])
    for one, given in zip(ours, gradients_of(ours, 0), strict=True):
        one.grad = given
    optimizer.step()
    ours[1].grad = None
    with pytest.raises(RuntimeError, match="a parameter has no gradient in this step"):
        optimizer.step()


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
