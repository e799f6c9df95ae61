"""Which kernels of a plan no schedule rule of ours knows, and what they cost.

They are correct, but run on plain tensors with a default schedule, between changes of layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel, Lane


@dataclass(frozen=True)
class Fallback:
    """A kernel without a rule; ``share`` is its part of the predicted time of all kernels (0 to 1)."""

    node: str
    op: str
    lane: Lane
    latency_us: float
    share: float


def fallbacks(
    mod: tvm.IRModule, target: Target, costs: CostModel, types: LaneTypes = FLOAT32
) -> tuple[Fallback, ...]:
    """The kernels of an applied plan that run with a default schedule, the costliest first."""
    schedules = PackedSchedules.of(target, types)
    kernels: list[tuple[Kernel, bool]] = []
    for _, function in mod.functions_items():
        if isinstance(function, relax.Function) and LANE_ATTR in (function.attrs or {}):
            lane: Lane = str(function.attrs[LANE_ATTR])  # type: ignore[assignment]
            machine = schedules.machine(lane)
            for group in groups_of(function, lane):
                kernels.append((types.kernel(group.kernel), define(group, machine) is None))
    latency_us, _ = costs.predict([kernel for kernel, _ in kernels])
    total = float(sum(latency_us)) or 1.0
    found = [
        Fallback(kernel.name, kernel.op, kernel.lane, float(us), float(us) / total)
        for (kernel, falls_back), us in zip(kernels, latency_us, strict=True)
        if falls_back
    ]
    return tuple(sorted(found, key=lambda f: -f.latency_us))
