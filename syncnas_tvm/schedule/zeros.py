"""Zeros in a weight that need not be computed: which part of it each group of channels has.

Grouped and mixed convolutions arrive as one convolution with structural zeros (see
``passes/merge_convolutions.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

# Parts are separate loops: they have to save this share of the multiply-adds.
WORTHWHILE = 0.1


@dataclass(frozen=True)
class Run:
    """Vectors ``first`` to ``last`` of output channels, whose weights are zero outside of ``box``.

    ``box`` has a range per dimension: input channels for a dense convolution, in steps, or rows and
    columns of the window for a depthwise one.
    """

    first: int
    last: int
    box: tuple[tuple[int, int], ...]


def runs(nonzero: np.ndarray) -> list[Run]:
    """The runs of ``nonzero``: a boolean per vector of outputs and position (any dimensions).

    One run with everything where leaving zeros out would save little.
    """
    boxes = [_box(vector) for vector in nonzero]
    found, at = [], 0
    for box, group in groupby(boxes):
        count = len(list(group))
        found.append(Run(at, at + count, box))
        at += count
    work = sum((r.last - r.first) * _size(r.box) for r in found)
    if work <= (1 - WORTHWHILE) * nonzero.size:
        return found
    return [Run(0, len(nonzero), tuple((0, extent) for extent in nonzero.shape[1:]))]


def share(weight: np.ndarray) -> float:
    """The share of a convolution's multiply-adds (OIHW) that is left without structural zeros."""
    depthwise = weight.shape[1] == 1
    corner = weight[:, 0, :1, :1] if depthwise else weight[:, (0, -1)]
    if (corner != 0).any(axis=(-2, -1)).all():  # the usual case, told without reading all of it
        return 1.0
    nonzero = weight[:, 0] != 0 if depthwise else (weight != 0).any(axis=(2, 3))
    return float(_box_sizes(nonzero).sum() / nonzero.size)


def _box(nonzero: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The smallest range per dimension that holds all that is not zero, one position at least."""
    if not nonzero.any():
        return tuple((0, 1) for _ in nonzero.shape)
    places = np.nonzero(nonzero)
    return tuple((int(p.min()), int(p.max()) + 1) for p in places)


def _box_sizes(nonzero: np.ndarray) -> np.ndarray:
    """The sizes of the boxes (:func:`_box`) of all vectors, ``nonzero``'s first dimension."""
    sizes = np.ones(len(nonzero), np.int64)
    for axis in range(1, nonzero.ndim):
        others = tuple(other for other in range(1, nonzero.ndim) if other != axis)
        seen = nonzero.any(axis=others) if others else nonzero
        last = seen.shape[1] - seen[:, ::-1].argmax(1)
        sizes *= np.where(seen.any(1), last - seen.argmax(1), 1)
    return sizes


def _size(box: tuple[tuple[int, int], ...]) -> int:
    return int(np.prod([last - first for first, last in box]))
