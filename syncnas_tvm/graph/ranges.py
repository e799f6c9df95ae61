"""Positions of a dimension that one lane holds, as sorted half-open ranges."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from syncnas_tvm.graph.channels import cut_points
from syncnas_tvm.work import Lane

Ranges = tuple[tuple[int, int], ...]


def lane_ranges(atoms: Iterable[int], gpu_share: float, step: int, lane: Lane) -> Ranges:
    """What ``lane`` gets of a dimension made of ``atoms``: of each atom, the CPU lane the front.

    Each atom is cut at the multiple of ``step`` nearest to the wanted share, never at its ends.
    """
    ranges, start = [], 0
    for size in atoms:
        wanted = size * (1 - gpu_share)
        cut = min(cut_points(size, step), key=lambda point: (abs(point - wanted), point))
        ranges.append((start, start + cut) if lane == "cpu" else (start + cut, start + size))
        start += size
    return merge(ranges)


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Join ranges that touch; drop empty ones."""
    merged: list[tuple[int, int]] = []
    for begin, end in ranges:
        if begin == end:
            continue
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return tuple(merged)


def extent(ranges: Ranges) -> int:
    """How many positions the ranges hold."""
    return sum(end - begin for begin, end in ranges)


def clip(ranges: Ranges, begin: int, end: int) -> Ranges:
    """The part of the ranges inside ``[begin, end)``, counted from ``begin``."""
    inside = [(max(a, begin) - begin, min(b, end) - begin) for a, b in ranges]
    return merge((a, b) for a, b in inside if a < b)


def shift(ranges: Ranges, by: int) -> Ranges:
    """The ranges moved up by ``by`` positions."""
    return tuple((a + by, b + by) for a, b in ranges)


def take(array: np.ndarray, ranges: Ranges, axis: int) -> np.ndarray:
    """The positions of ``array`` along ``axis`` that are in the ranges."""
    index = np.concatenate([np.arange(a, b) for a, b in ranges])
    return np.ascontiguousarray(np.take(array, index, axis=axis))
