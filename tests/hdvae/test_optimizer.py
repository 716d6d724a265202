"""Adamax by rows: dense Adamax where every row is read, and nothing at all where none is."""

import pytest
import torch
from torch import nn

from hdvae.optimizer import RowAdamax, clip_gradients, entries, total_norm
from hdvae.slots import of_rows

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
    optimizer = RowAdamax([{"params": [by_rows, other], "lr": 0.02}])
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
    optimizer = RowAdamax([{"params": [values], "lr": 0.02}])
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
    RowAdamax([values]).step()
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
