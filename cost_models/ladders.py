"""Makes predictions monotone: a cut kernel never costs more than the whole."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.columns import DENSE, Columns, columns_of, numbers_of
from syncnas_tvm.work import Kernel

Rungs = NDArray[np.float64]
Indices = NDArray[np.intp]
Ranks = NDArray[Any]
ROWS = 256
"""Kernels that are compared at once with all others of their family: the result stays in the cache."""
FEW, GRID_COST = 300, 32
"""Families below which a grid is never worth it; what a cell of one costs in comparisons."""


def monotone(kernels: Sequence[Kernel], latency_us: Rungs) -> Rungs:
    """``latency_us`` of convolutions and matrix products with every ladder of cuts among them made
    non-decreasing.

    Kernels of a lane that differ in nothing but channels in, channels out and rows are cuts of one another
    where one is no larger than the other in any of them. A latency becomes the geometric mean of the
    largest of its smaller relatives and the smallest of its larger ones, its own included: both are
    monotone, so the mean is, and what was monotone stays as it is.
    """
    return monotone_of(columns_of(kernels), latency_us)


def monotone_of(columns: Columns, latency_us: Rungs) -> Rungs:
    """:func:`monotone` for the kernels that ``columns`` describe."""
    dense = columns["kind"] == DENSE
    rows = np.where(dense, columns["columns"], columns["rows"])
    sizes = np.stack([columns["in"], columns["out"], rows])
    shared = [dense.astype(np.float64), *(columns[name] for name in ("gpu", "groups", "kh", "kw"))]
    shared += [np.where(dense, 0, columns[name]) for name in ("w", "columns")]
    family = numbers_of(shared)
    order = np.argsort(latency_us, kind="stable")
    order = order[np.argsort(family[order], kind="stable")]
    sizes = sizes.astype(_small_type(sizes.max(initial=0)))[:, order]
    first = np.flatnonzero(np.diff(family[order], prepend=-1))
    several = np.minimum.reduceat(sizes, first, 1) < np.maximum.reduceat(sizes, first, 1)
    low, high = np.arange(len(order)), np.arange(len(order))
    for start, end, axes in zip(first, [*first[1:], len(order)], several.T, strict=True):
        if end - start > 1:
            slowest, fastest = _relatives(sizes[axes, start:end], end - start)
            low[start:end], high[start:end] = slowest + start, fastest + start
    found = np.empty_like(latency_us)
    sorted_us = latency_us[order]
    found[order] = np.sqrt(sorted_us[low] * sorted_us[high])
    return found


def _relatives(place: Ranks, count: int) -> tuple[Indices, Indices]:
    """Of one family's kernels, ``[axes, count]``, sorted by latency: for each the last one that is no
    larger along any axis, and the first that is no smaller."""
    if not len(place):
        return np.full(count, count - 1), np.zeros(count, np.intp)
    if count > FEW:
        axes = [np.unique(column, return_inverse=True) for column in place]
        if count**2 > GRID_COST * prod(len(rungs) for rungs, _ in axes):
            return _on_a_grid(np.array([where for _, where in axes], _small_type(count)))
    return _each_with_each(place)


def _small_type(most: float) -> type[np.integer[Any]]:
    return np.int16 if most < 1 << 15 else np.int64


def _each_with_each(place: Ranks) -> tuple[Indices, Indices]:
    """A kernel is a relative of its own: none looks among the faster ones for one that is smaller."""
    count = place.shape[1]
    low, high = np.empty((2, count), np.intp)
    backwards = place[:, ::-1].copy()
    for start in range(0, count, ROWS):
        rows = slice(start, start + ROWS)
        here = place[:, rows, None]
        smaller = _no_larger(backwards[:, None, : count - start], here)
        larger = _no_larger(here, place[:, None, : start + ROWS])
        low[rows], high[rows] = count - 1 - smaller.argmax(1), larger.argmax(1)
    return low, high


def _no_larger(some: Ranks, others: Ranks) -> NDArray[np.bool_]:
    """Whether ``some`` are no larger than ``others`` along any axis."""
    found = some[0] <= others[0]
    for one, other in zip(some[1:], others[1:], strict=True):
        found &= one <= other
    return found


def _on_a_grid(place: Ranks) -> tuple[Indices, Indices]:
    """The same on the grid of all sizes that occur, by running maxima along every axis."""
    most, last = place.max(1).astype(np.intp) + 1, place.shape[1] - 1
    ranks = np.arange(last + 1, dtype=_small_type(last))
    low, high = np.zeros((2, *most), ranks.dtype)
    # The first of the larger ones is the same with everything turned round.
    turned = most[:, None] - 1 - place
    np.maximum.at(low, tuple(place), ranks)
    np.maximum.at(high, tuple(turned), last - ranks)
    for axis in range(len(most)):
        for grid in (low, high):
            _run_maximum(np.moveaxis(grid, axis, 0))
    return low[tuple(place)].astype(np.intp), last - high[tuple(turned)].astype(np.intp)


def _run_maximum(lines: Ranks) -> None:
    """Running maximum, in place: each step doubles how far back it looks."""
    reach = 1
    while reach < len(lines):
        np.maximum(lines[reach:], lines[:-reach].copy(), out=lines[reach:])
        reach *= 2
