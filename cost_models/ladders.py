"""Makes predictions monotone: a cut kernel never costs more than the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.work import Kernel

Rungs = NDArray[np.float64]


def monotone(kernels: Sequence[Kernel], latency_us: NDArray[np.float64]) -> NDArray[np.float64]:
    """``latency_us`` with every ladder of cuts among ``kernels`` made non-decreasing.

    Kernels that differ in nothing but channels in, channels out and rows are cuts of one another
    where one is no larger than the other in any of them. A latency becomes the geometric mean of the
    largest of its smaller relatives and the smallest of its larger ones, its own included: both are
    monotone, so the mean is, and what was monotone stays as it is.
    """
    families: dict[object, list[int]] = defaultdict(list)
    sizes = []
    for index, kernel in enumerate(kernels):
        family, size = _family(kernel)
        families[family].append(index)
        sizes.append(size)
    found = latency_us.copy()
    every = np.array(sizes, np.float64).reshape(-1, 3)
    for members in families.values():
        if len(members) > 1:
            found[members] = _project(every[members], latency_us[members])
    return found


def _family(kernel: Kernel) -> tuple[object, tuple[int, int, int]]:
    """What a kernel shares with its cuts, and what it may differ in."""
    data, out = kernel.shapes[0], kernel.out_shape
    if kernel.op != "nn.conv2d":
        return (kernel.op, data[:-2]), (data[-1], out[-1], out[-2] if len(out) > 1 else 1)
    weight = kernel.shapes[1]
    depthwise = weight[1] == 1 and data[1] > 1
    groups = 0 if depthwise else data[1] // weight[1]
    return (groups, weight[2:], data[3], out[3]), (weight[1], out[1], out[2])


def _project(sizes: Rungs, latency_us: Rungs) -> Rungs:
    varying = np.flatnonzero(np.ptp(sizes, axis=0))
    if len(varying) == 0:
        return np.full_like(latency_us, np.exp(np.log(latency_us).mean()))
    if len(varying) == 1:
        return _along(sizes[:, varying[0]], latency_us)
    smaller = (sizes[:, None, varying] <= sizes[None, :, varying]).all(2)
    low = np.where(smaller, latency_us[:, None], 0).max(0)
    high = np.where(smaller, latency_us[None, :], np.inf).min(1)
    return np.sqrt(low * high)


def _along(size: Rungs, latency_us: Rungs) -> Rungs:
    """The same for cuts in one dimension, without comparing each with each."""
    rungs, place = np.unique(size, return_inverse=True)
    most, least = np.zeros(len(rungs)), np.full(len(rungs), np.inf)
    np.maximum.at(most, place, latency_us)
    np.minimum.at(least, place, latency_us)
    low = np.maximum.accumulate(most)
    high = np.minimum.accumulate(least[::-1])[::-1]
    return np.sqrt(low * high)[place]
