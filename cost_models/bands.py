"""Bands of rows: a power law on top of what was learned of whole kernels.

No log has a convolution whose output has another number of rows than of columns, so a model cannot know
what a band takes: it would take a band for a smaller picture, and a search would pick the bands whose
error is to their favour. What is learned is therefore asked for the square kernel of the same width,
and a band takes ``(rows / columns) ** power`` of that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.columns import COLUMNS, DENSE, Column, Columns, keys_of
from syncnas_tvm.work import Lane

Indices = NDArray[np.intp]
POWERS: Mapping[tuple[Lane, str], float] = {
    ("cpu", "float32"): 0.97,
    ("gpu", "float32"): 0.88,
    ("gpu", "float16"): 0.76,
}
"""How a kernel's time grows with its size: half of it takes a little more than half the time. Medians of
pairs of kernels in the RK3399's logs that differ in channels alone."""
STD_PER_OCTAVE = 0.07
"""How far off the law is: where channels are halved, 3 (CPU) to 10 % (Adreno) in the logs."""


def squared(columns: Columns) -> Columns:
    """The square kernels, as high as wide, that ``columns``' convolutions are bands of."""
    share = _share(columns)
    if (share == 1).all():
        return columns
    dense = columns["kind"] == DENSE
    return {
        **columns,
        "rows": np.where(dense, columns["rows"], columns["columns"]),
        "h": np.where(dense, columns["h"], columns["w"]),
        "macs": np.rint(columns["macs"] / share),
    }


def distinct(squares: Columns) -> tuple[Indices, Indices]:
    """The first of all kernels that are alike, and for each kernel which of these it is.

    Bands of one kernel are bands of one square: what is learned is asked once for all of them.
    """
    places = squares["out"] * squares["rows"] * squares["columns"]
    sums = places * squares["in"] * squares["kh"] * squares["kw"]
    density = np.rint(1e6 * squares["macs"] / sums)  # as far as structural zeros are told apart
    names = [name for name in COLUMNS if name != "macs"]
    keys = keys_of([*(squares[name] for name in names), density])
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return first, number


def band_rate(columns: Columns) -> Column:
    """The logarithm of a band's GFLOP/s over its square kernel's."""
    half = columns["size"] < 4
    gpu = np.where(half, POWERS["gpu", "float16"], POWERS["gpu", "float32"])
    power = np.where(columns["gpu"] > 0, gpu, POWERS["cpu", "float32"])
    return (1 - power) * np.log(_share(columns))


def band_std(columns: Columns) -> Column:
    """The relative standard deviation that the law brings."""
    return STD_PER_OCTAVE * np.abs(np.log2(_share(columns)))


def _share(columns: Columns) -> Column:
    """Rows over columns of a convolution; 1 of a matrix product."""
    return np.where(columns["kind"] == DENSE, 1.0, columns["rows"] / columns["columns"])
