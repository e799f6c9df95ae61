"""A packed kernel's schedules as a MetaSchedule space: its workload and the tilings to try."""

from __future__ import annotations

from dataclasses import dataclass, fields

import tvm
from tvm import s_tir, tirx

from syncnas_tvm.schedule import packed_cpu, packed_gpu
from syncnas_tvm.schedule.packed_definition import Family
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.work import Lane

PARAMETERS = tuple(field.name for field in fields(Tiling))


@dataclass(frozen=True, eq=False)
class TuningSpace:
    """The schedules of ``function``, as TE made it; the first of ``tilings`` is the rule's own.

    Called with a schedule of :attr:`workload` it is a MetaSchedule ``ScheduleFn``: every number of
    the tiling is a ``sample_categorical``, and the rule's template is applied with what came out.
    The template reads these numbers, so that a trace stands for its own decisions only: use a
    strategy that calls the space for every candidate (``replay-func``, or ours), not one that
    replays a trace with other decisions.
    """

    function: tirx.PrimFunc
    family: Family
    lane: Lane
    tilings: tuple[Tiling, ...]

    @property
    def workload(self) -> tvm.IRModule:
        """The module that tuning records are kept by."""
        return tvm.IRModule({"main": self.function})

    def scheduled(self, tiling: Tiling | None = None) -> tirx.PrimFunc:
        """The function scheduled with ``tiling``, or with the rule's own."""
        sch = s_tir.Schedule(self.function)
        self._apply(sch, tiling or self.tilings[0])
        return sch.mod["main"]

    def traced(self, tiling: Tiling) -> s_tir.Schedule:
        """A schedule whose trace holds the decisions for ``tiling``, one of :attr:`tilings`."""
        sch = s_tir.Schedule(self.workload)
        self._apply(sch, self._sample(sch, tiling))
        return sch

    def tiling_of(self, trace: s_tir.schedule.Trace) -> Tiling:
        """The tiling that a trace of this space, or of :meth:`traced`, has sampled."""
        choices = [i for i in trace.insts if str(i.kind.name) == "SampleCategorical"]
        return Tiling(*(int(i.attrs[0][int(trace.decisions[i])]) for i in choices))

    def __call__(self, sch: s_tir.Schedule) -> None:
        """Sample a tiling and apply it."""
        self._apply(sch, self._sample(sch, None))

    def _sample(self, sch: s_tir.Schedule, wanted: Tiling | None) -> Tiling:
        """One number after the other, each out of those that go with the numbers before it."""
        left = list(self.tilings)
        for name in PARAMETERS:
            values = list(dict.fromkeys(getattr(tiling, name) for tiling in left))
            shares = [1.0 / len(values)] * len(values)
            decision = None if wanted is None else values.index(getattr(wanted, name))
            value = int(sch.get(sch.sample_categorical(values, shares, decision)))
            left = [tiling for tiling in left if getattr(tiling, name) == value]
        (tiling,) = left
        return tiling

    def _apply(self, sch: s_tir.Schedule, tiling: Tiling) -> None:
        template = packed_cpu if self.lane == "cpu" else packed_gpu
        template.apply(sch, self.family, tiling)
