"""Bands of rows: a power law on top of what was learned of whole kernels.

No log has a convolution whose output has another number of rows than of columns, so a model cannot know
what a band takes: it would take a band for a smaller picture, and a search would pick the bands whose
error is to their favour. What is learned is therefore asked for the square kernel of the same width,
and a band takes ``(rows / columns) ** power`` of that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from syncnas_tvm.cost_models.columns import DENSE, Column, Columns
from syncnas_tvm.work import Lane

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
        "macs": columns["macs"] / share,
    }


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
