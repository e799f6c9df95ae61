"""The roofline: the floor of all cost models, and the model where nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from syncnas_tvm.cost_models.base import CostModel, Microseconds, kind_of
from syncnas_tvm.targets import LanePeak, Target
from syncnas_tvm.work import LANES, Kernel

RELATIVE_STD = 0.3
"""Typical relative error of a roofline fitted per kind of operator on TVM-tuned kernels."""


class Roofline(CostModel):
    """``max(flops / reached GFLOP/s of the kind, bytes / bandwidth) + launch``, per lane.

    After Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model
    for Multicore Architectures" (CACM 52, 2009), with the peak scaled by the share that kernels
    of each kind reach on the target. Never negative, never above the lane's peak.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lanes = {lane: target.peak(lane) for lane in LANES}

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        times = (roofline_us(kernel, self._lanes[kernel.lane]) for kernel in kernels)
        latency_us = np.fromiter(times, np.float64, len(kernels))
        return latency_us, RELATIVE_STD * latency_us


def roofline_us(kernel: Kernel, peak: LanePeak) -> float:
    """Microseconds of ``kernel`` on a lane with this peak."""
    compute_us = kernel.flops / (peak.reached_gflops(kind_of(kernel)) * 1e3)
    memory_us = kernel.bytes_moved / (peak.gbytes_per_s * 1e3)
    return max(compute_us, memory_us) + peak.launch_us
