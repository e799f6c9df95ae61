"""Kernels in a network are slower than alone: a cost model times the target's ``network_bias``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from syncnas_tvm.cost_models.base import CostModel, Microseconds
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel


class InNetwork(CostModel):
    """``alone``, a model of kernels alone, times the ``network_bias`` of each kernel's lane.

    A lane without a ``[learned]`` table in the target has no bias.
    """

    def __init__(self, alone: CostModel, target: Target) -> None:
        self._alone = alone
        self._bias = {lane: learned.network_bias for lane, learned in target.learned.items()}

    @property
    def alone(self) -> CostModel:
        """See :attr:`CostModel.alone`."""
        return self._alone

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us, std_us = self._alone.predict(kernels)
        bias = np.array([self._bias.get(kernel.lane, 1.0) for kernel in kernels])
        return latency_us * bias, std_us * bias

    def describe(self, kernels: Sequence[Kernel]) -> str:
        """See :meth:`CostModel.describe`."""
        return self._alone.describe(kernels)
