"""The roofline: the floor of all cost models, and the model where nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from syncnas_tvm.cost_models.base import CostModel, Microseconds, kind_of
from syncnas_tvm.targets import KERNEL_KINDS, Target
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
        self._flops_per_us = {
            (lane, kind): self._lanes[lane].reached_gflops(kind) * 1e3
            for lane in LANES
            for kind in KERNEL_KINDS
        }

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us = np.fromiter((self._one(k) for k in kernels), np.float64, len(kernels))
        return latency_us, RELATIVE_STD * latency_us

    def _one(self, kernel: Kernel) -> float:
        lane = self._lanes[kernel.lane]
        compute_us = kernel.flops / self._flops_per_us[kernel.lane, kind_of(kernel)]
        memory_us = kernel.bytes_moved / (lane.gbytes_per_s * 1e3)
        return max(compute_us, memory_us) + lane.launch_us
