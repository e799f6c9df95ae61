"""The cost model of a target: its learned models, and its roofline where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.base import CostModel, Microseconds
from syncnas_tvm.cost_models.in_network import InNetwork
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.roofline import Roofline
from syncnas_tvm.errors import InputError, TargetError
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel, Lane


class TargetModel(CostModel):
    """Each lane's learned model for each type, as the target's ``[learned]`` tables name them.

    A latency is the learned one over ``speed`` (how many times as fast as the device that was
    measured). A lane and type without a model gets the target's roofline.
    """

    def __init__(self, target: Target) -> None:
        """Load the models; raises TargetError where one is missing or of another version."""
        self.target = target
        self._roofline = Roofline(target)
        self._models = {
            (lane, dtype): _load(target, f"learned.{lane}.{dtype}", path)
            for lane, learned in target.learned.items()
            for dtype, path in learned.models.items()
        }

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us, std_us = np.zeros(len(kernels)), np.zeros(len(kernels))
        for (lane, dtype), indices in by_lane_and_type(kernels).items():
            here = [kernels[index] for index in indices]
            learned = self._models.get((lane, dtype))
            us, std = (learned or self._roofline).predict(here)
            speed = self.target.learned[lane].speed if learned else 1.0
            latency_us[indices], std_us[indices] = us / speed, std / speed
        return latency_us, std_us

    def outside(self, kernels: Sequence[Kernel]) -> NDArray[np.float64]:
        """The share of each prediction (0 to 1) that is a roofline's."""
        found = np.ones(len(kernels))
        for key, indices in by_lane_and_type(kernels).items():
            if key in self._models:
                found[indices] = self._models[key].outside([kernels[index] for index in indices])
        return found

    def describe(self, kernels: Sequence[Kernel]) -> str:
        """How many of ``kernels`` are not, or not wholly, what was learned."""
        convolutions = [k for k in kernels if k.macs]
        count = int((self.outside(convolutions) > 0).sum())
        names = sorted(
            p.stem for lane in self.target.learned.values() for p in lane.models.values()
        )
        return (
            f"cost models {', '.join(names)}; {count} of {len(convolutions)} kernels lie outside of"
            " what they were trained on, where the roofline counts"
        )


def cost_model_of(target: Target) -> CostModel:
    """The target's learned models, of kernels in a network, or its roofline where it has none."""
    return InNetwork(TargetModel(target), target) if target.learned else Roofline(target)


def _load(target: Target, key: str, path: Path) -> LearnedModel:
    try:
        return LearnedModel.load(path)
    except InputError as error:
        raise TargetError(f"target '{target.name}': '{key}': {error}") from error


def by_lane_and_type(kernels: Sequence[Kernel]) -> dict[tuple[Lane, str], list[int]]:
    """Indices of the kernels of each lane and type."""
    found: dict[tuple[Lane, str], list[int]] = {}
    for index, kernel in enumerate(kernels):
        found.setdefault((kernel.lane, kernel.dtype), []).append(index)
    return found
