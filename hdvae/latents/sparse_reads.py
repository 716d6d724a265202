"""Reads of a few slots of a memory, with a sparse gradient that has entries for these slots only.

Shape letters: B batch, N variables, K classes, C slots per read, D value size, Q query size, M keys of a part,
U distinct rows, E entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class _Gather(torch.autograd.Function):
    """Σ_c w_c v_c over some rows of a table. The gradient of the table is sparse, with every row at most once."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        return embedding_bag(rows, table.flatten(0, 1), mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, weights = ctx.saved_tensors
        (gradient,) = gradients
        for_table = for_weights = None
        if ctx.needs_input_grad[0]:
            read, order, starts = grouped(_narrow(rows.flatten(), table.shape[0] * table.shape[1]))
            for_table = of_rows(read, _sums(rows, weights, gradient, order, starts), table.shape)
        if ctx.needs_input_grad[2]:
            values = fetch(table.flatten(0, 1), rows.flatten()).view(*rows.shape, -1)
            for_weights = torch.bmm(values, gradient.unsqueeze(-1)).squeeze(-1)
        return for_table, None, for_weights


def read_slots(values_NKD: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of slots Σ_c w_c v_c, (B, N, D). The gradient of the values is a sparse COO tensor.

    Args:
        values_NKD: the values of each variable, or one table for all variables, (N or 1, K, D).
        slots: class indices, (B, N, C).
        weights: the weights of the slots, (B, N, C).
    """
    tables, classes, _ = values_NKD.shape
    rows = slots
    if tables > 1:
        rows = slots + classes * torch.arange(tables, device=slots.device).unsqueeze(-1)
    read: Tensor = _Gather.apply(values_NKD, rows.flatten(0, 1), weights.flatten(0, 1))  # type: ignore[no-untyped-call]
    return read.view(slots.shape[0], slots.shape[1], values_NKD.shape[-1])


class _Products(torch.autograd.Function):
    """Zeros with the gradient of the products of queries and chosen keys."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, chosen)
        return queries.new_zeros(()).expand(chosen.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, keys, chosen = ctx.saved_tensors
        variables, classes, _ = keys.shape
        first = classes * torch.arange(variables, dtype=chosen.dtype, device=keys.device).unsqueeze(-1)
        rows, weights = (chosen + first).flatten(0, 1), gradients[0].flatten(0, 1)
        for_queries = embedding_bag(rows, keys.flatten(0, 1), mode="sum", per_sample_weights=weights)
        counts = torch.bincount(rows.flatten(), minlength=variables * classes)
        order = _narrow(rows.flatten(), variables * classes).sort(stable=True).indices
        for_keys = _sums(rows, weights, queries.flatten(0, 1), order, counts.cumsum(0) - counts)
        return for_queries.view_as(queries), for_keys.view_as(keys), None


def tie_products(queries: Tensor, keys: Tensor, chosen: Tensor) -> Tensor:
    """Zeros (B, N, C) with the gradient of the products of queries and chosen keys.

    Args:
        queries: the queries, (B, N, Q).
        keys: the keys of a part, (N, M, Q).
        chosen: the indices of the chosen keys, (B, N, C).
    """
    zeros: Tensor = _Products.apply(queries, keys, chosen)  # type: ignore[no-untyped-call]
    return zeros


def _sums(rows: Tensor, weights: Tensor, gradient: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """For each row of a table, the sum over its entries of their weight times the gradient of their read.

    Args:
        rows: the row of each entry, (R, C), for R reads with C entries each.
        weights: the weight of each entry, (R, C).
        gradient: the gradient of each read, (R, D).
        order: the indices of the entries, sorted by row, (R · C,).
        starts: the position in `order` at which the entries of each row begin, (U,).

    Returns:
        The sum of each row, (U, D); 0 for a row without entries.
    """
    readers = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1]).index_select(0, order)
    weight = weights.flatten().index_select(0, order)
    return embedding_bag(readers, gradient.contiguous(), starts, mode="sum", per_sample_weights=weight)


def _narrow(rows: Tensor, count: int) -> Tensor:
    """Row numbers below `count` as 32-bit integers if possible, since these are sorted in half the time."""
    return rows.int() if count < 2**31 else rows


def fetch(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (R,) of a table (…, D): (R, D), without a graph. Twice as fast as `index_select` on a large table.

    A bag of one row is that row. On a CPU, `embedding_bag` prefetches rows, while `index_select` waits for each.
    """
    return embedding_bag(rows.unsqueeze(-1), table.detach(), mode="sum")


def grouped(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group entries by their row.

    Args:
        rows: the row of each entry, (E,).

    Returns:
        The distinct rows in increasing order (U,), the indices of the entries sorted by row (E,), and the position in
        these at which each row begins (U,).
    """
    ordered, order = rows.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new[1:])
    starts = new.nonzero().squeeze(-1)
    return ordered.index_select(0, starts).long(), order, starts


def of_rows(rows: Tensor, entries: Tensor, shape: torch.Size) -> Tensor:
    """The coalesced sparse tensor (N, K, D) with entries (U, D) in the given distinct rows of its flattened table."""
    if shape[0] == 1:
        return _coalesced(torch.stack([torch.zeros_like(rows), rows]), entries, shape)
    table = rows // shape[1]
    return _coalesced(torch.stack([table, rows - table * shape[1]]), entries, shape)


def _coalesced(places: Tensor, entries: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(places, entries, shape, is_coalesced=True, check_invariants=False)


def rows_of(gradient: Tensor) -> Tensor:
    """The rows of the flattened table for which a sparse tensor (N, K, D) has entries, (U,)."""
    places: Tensor = gradient._indices()
    return places[1] if gradient.shape[0] == 1 else places[0] * gradient.shape[1] + places[1]


def rows_once(gradient: Tensor) -> Tensor:
    """The coalesced form of a sparse tensor (N, K, D): each row once, in increasing order."""
    rows, entries = rows_of(gradient), gradient._values()
    if (rows[1:] > rows[:-1]).all():
        return _coalesced(gradient._indices(), entries, gradient.shape)
    rows, order, starts = grouped(rows)
    return of_rows(rows, embedding_bag(order, entries, starts, mode="sum"), gradient.shape)
