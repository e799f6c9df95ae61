"""Makes predictions monotone: a cut kernel never costs more than the whole."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.columns import DENSE, Column, Columns, columns_of, numbers_of
from syncnas_tvm.work import Kernel

Rungs = NDArray[np.float64]
Indices = NDArray[np.intp]
Ranks = NDArray[Any]
FEW, GRID_COST = 300, 16
"""Kernels that are compared each with each at once; what a cell of a grid costs in comparisons."""


def monotone(kernels: Sequence[Kernel], latency_us: Rungs) -> Rungs:
    """``latency_us`` of convolutions and matrix products with every ladder of cuts among them made
    non-decreasing.

    Kernels that differ in nothing but channels in, channels out and rows are cuts of one another
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
    shared = [dense.astype(np.float64), columns["groups"], columns["kh"], columns["kw"]]
    shared += [np.where(dense, 0, columns[name]) for name in ("w", "columns")]
    found = latency_us.copy()
    for members in _families(shared):
        found[members] = _project(sizes[:, members], latency_us[members])
    return found


def _families(shared: Sequence[Column]) -> list[Indices]:
    """Indices of kernels that agree in all columns, for each such set of two and more."""
    key = numbers_of(shared)
    order = np.argsort(key, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _project(sizes: NDArray[np.float64], latency_us: Rungs) -> Rungs:
    """Of one family; ``sizes`` ``[3, n]``."""
    place = [column for column in sizes if column.min() != column.max()]
    if not place:
        return np.full_like(latency_us, np.exp(np.log(latency_us).mean()))
    count, project = len(latency_us), _each_with_each
    if count > FEW:
        axes = [np.unique(column, return_inverse=True) for column in place]
        place = [where for _, where in axes]
        if count**2 > GRID_COST * prod(len(rungs) for rungs, _ in axes):
            project = _on_a_grid
    order = np.argsort(latency_us, kind="stable")
    sorted_us = latency_us[order]
    sorted_place = np.array(place, _small_type(max(map(np.max, place))))[:, order]
    low, high = project(sorted_place)
    found = np.empty(count)
    found[order] = np.sqrt(sorted_us[low] * sorted_us[high])
    return found


def _small_type(most: float) -> type[np.integer[Any]]:
    return np.int16 if most < 1 << 15 else np.int64


def _each_with_each(place: Ranks) -> tuple[Indices, Indices]:
    """Of kernels sorted by latency: for each the last one that is smaller, and the first that is
    larger."""
    count = place.shape[1]
    smaller, larger = np.ones((2, count, count), bool)
    backwards = place[:, ::-1].copy()
    for where, other in zip(place, backwards, strict=True):
        smaller &= other <= where[:, None]
        larger &= where >= where[:, None]
    return count - 1 - smaller.argmax(1), larger.argmax(1)


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
