"""The distinct kernels that a plan may ask for, and how each of them is built."""

from __future__ import annotations

from collections.abc import Sequence

from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.host_costs import collect_groups
from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.planner import Candidate, Space
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning.tuner import spaces_of
from syncnas_tvm.work import Kernel, Lane

ATTEMPTS = 3
"""So many decisions that should have a kernel are written out to find it."""


class KernelSource:
    """Kernels of the model and of all its cuts: ``kernels``, those of ``lanes`` alone.

    There are thousands; a decision is written out only when one of its kernels is asked for.
    """

    def __init__(
        self,
        graph: RegionGraph,
        space: Space,
        target: Target,
        types: LaneTypes,
        lanes: Sequence[Lane],
    ) -> None:
        self._graph, self._types, self._lanes = graph, types, tuple(lanes)
        self._schedules = PackedSchedules.of(target, types)
        self._found: dict[Kernel, Group] = {}
        self._written: set[Candidate] = set()
        self._candidates: dict[Kernel, list[Candidate]] = {}
        for candidate in space.all():
            for kernel in kernels_of([candidate]):
                if kernel.lane in self._lanes:
                    self._candidates.setdefault(kernel, []).append(candidate)
        self.kernels = list(self._candidates)

    def spaces(self, kernel: Kernel) -> list[TuningSpace]:
        """The kernel's functions and their tilings; none where no schedule of ours is used for it."""
        # Runs of regions take long to write, and have no kernels that their parts lack.
        for candidate in sorted(self._candidates[kernel], key=lambda c: c.span)[:ATTEMPTS]:
            if kernel in self._found:
                break
            if candidate not in self._written:
                self._write(candidate)
        group = self._found.get(kernel)
        return [] if group is None else spaces_of(group, self._schedules)

    def _write(self, candidate: Candidate) -> None:
        groups: dict[object, Group] = {}
        collect_groups(self._graph, candidate, self._lanes, groups)
        self._written.add(candidate)
        for group in groups.values():
            self._found.setdefault(self._types.kernel(group.kernel), group)
