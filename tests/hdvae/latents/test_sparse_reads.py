"""Reads of a few slots, and sparse gradients that hold each row once."""

import pytest
import torch
from torch.autograd import gradcheck

from hdvae.latents.sparse_reads import fetch, grouped, of_rows, read_slots, rows_of, rows_once, tie_products


def some(tables, classes=50, draws=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tables, classes, 3, dtype=torch.float64, generator=generator)
    slots = torch.randint(0, classes, (4, 2, draws), generator=generator)
    weights = torch.randn(4, 2, draws, dtype=torch.float64, generator=generator)
    return values.requires_grad_(), slots, weights.requires_grad_()


@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("classes", [3, 50])
def test_reads_and_gradients_are_those_of_indexing(tables, classes):
    """Few classes: most rows are read several times."""
    values, slots, weights = some(tables, classes)
    read = read_slots(values, slots, weights)
    variables = torch.arange(2).view(1, 2, 1)
    expected = (weights.unsqueeze(-1) * values.expand(2, -1, -1)[variables, slots]).sum(-2)
    torch.testing.assert_close(read, expected)
    got = torch.autograd.grad(read.exp().sum(), (values, weights))
    wanted = torch.autograd.grad(expected.exp().sum(), (values, weights))
    assert got[0].is_sparse
    torch.testing.assert_close(got[0].to_dense(), wanted[0])
    torch.testing.assert_close(got[1], wanted[1])


def test_gradient_of_the_weights_by_differences():
    values, slots, weights = some(2)
    assert gradcheck(lambda w: read_slots(values.detach(), slots, w), weights)


def test_gradient_holds_the_rows_that_were_read_and_no_other():
    values, slots, weights = some(2, 1000)
    read_slots(values, slots, weights).sum().backward()
    rows = rows_of(values.grad)
    wanted = (slots + 1000 * torch.arange(2).view(1, 2, 1)).unique()
    assert torch.equal(rows, wanted)


def test_two_reads_add_up_and_each_row_is_there_once():
    values, slots, weights = some(2, 5)
    (read_slots(values, slots, weights) + 2 * read_slots(values, slots.flip(0), weights)).exp().sum().backward()
    once = rows_once(values.grad)
    assert once.is_coalesced()
    rows = rows_of(once)
    assert (rows[1:] > rows[:-1]).all()
    torch.testing.assert_close(once.to_dense(), values.grad.to_dense())
    again = rows_once(once)
    assert torch.equal(again.values(), once.values())


def test_groups_begin_where_rows_change():
    rows, order, starts = grouped(torch.tensor([4, 1, 4, 0, 1, 4]))
    assert rows.tolist() == [0, 1, 4]
    assert order.tolist() == [3, 1, 4, 0, 2, 5]
    assert starts.tolist() == [0, 1, 3]


def test_sparse_tensor_of_rows():
    tensor = of_rows(torch.tensor([1, 5]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.Size([2, 4, 2]))
    dense = torch.zeros(2, 4, 2)
    dense[0, 1], dense[1, 1] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert torch.equal(tensor.to_dense(), dense)
    assert rows_of(tensor).tolist() == [1, 5]


def test_rows_are_fetched_as_they_are():
    table = torch.randn(9, 5, requires_grad=True)
    rows = torch.tensor([3, 0, 3, 8])
    got = fetch(table, rows)
    assert torch.equal(got, table[rows])
    assert not got.requires_grad
    assert fetch(table, rows[:0]).shape == (0, 5)


def test_ties_are_zeros_with_the_gradient_of_products():
    """With keys that are chosen often, and keys that are not chosen at all."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    keys = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator).requires_grad_()
    chosen = torch.randint(0, 6, (5, 2, 9), generator=generator)
    products = torch.einsum("bnq,nmq->bnm", queries, keys)
    got, wanted = tie_products(queries, keys, chosen), products.gather(-1, chosen)
    assert torch.equal(got, torch.zeros_like(wanted))
    weights = torch.randn(5, 2, 9, dtype=torch.float64, generator=generator)
    mine = torch.autograd.grad((weights * (wanted.detach() + got).exp()).sum(), (queries, keys))
    theirs = torch.autograd.grad((weights * wanted.exp()).sum(), (queries, keys))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert (mine[1][:, 6] == 0).all()
