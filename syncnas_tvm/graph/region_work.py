"""Reads off a rewritten region what each lane does: the kernels, phases and syncs of a decision."""

from __future__ import annotations

import tvm

from syncnas_tvm.errors import RuleError
from syncnas_tvm.graph.calls import CallSite, bytes_of, calls_of
from syncnas_tvm.graph.fusion import Group, groups_of
from syncnas_tvm.work import LANES, Kernel, Lane, Phase, Sync, Work


def work_of(mod: tvm.IRModule, region: str) -> Work:
    """The work of the region whose function in ``mod`` a split rule has rewritten."""
    calls = calls_of(mod, mod[region]).calls
    for call in calls:
        if call.lane is None and call.join is None:
            raise RuleError(
                f"region '{region}': the call of '{call.callee.name_hint}' is neither a lane "
                "function nor a join; set its attributes with lane_attrs or join_attrs"
            )
    phases = sorted({call.phase for call in calls})
    return Work(tuple(_phase([c for c in calls if c.phase == phase], calls) for phase in phases))


def groups_in(mod: tvm.IRModule, region: str) -> list[Group]:
    """The kernels of a rewritten region with the nodes behind them, those of joins on both lanes."""
    found = []
    for call in calls_of(mod, mod[region]).calls:
        for lane in LANES if call.lane is None else (call.lane,):
            found += groups_of(call.function, lane)
    return found


def _phase(calls: list[CallSite], all_calls: tuple[CallSite, ...]) -> Phase:
    def kernels(lane: Lane) -> tuple[Kernel, ...]:
        return tuple(
            group.kernel for c in calls if c.lane == lane for group in groups_of(c.function, lane)
        )

    joins = [call for call in calls if call.join]
    return Phase(kernels("cpu"), kernels("gpu"), _sync(calls, joins, all_calls))


def _sync(calls: list[CallSite], joins: list[CallSite], all_calls: tuple[CallSite, ...]) -> Sync:
    if not joins:
        held = {
            lane: bytes_of(tuple(r for c in calls if c.lane == lane for r in c.results))
            for lane in LANES
        }
        return Sync("copy", held["cpu"], held["gpu"])
    made_on = {result: c.lane for c in all_calls for result in c.results if c.lane}
    shares = {
        lane: bytes_of(tuple({a: None for j in joins for a in j.args if made_on.get(a) == lane}))
        for lane in LANES
    }
    kernels = tuple(group.kernel for j in joins for group in groups_of(j.function, "cpu"))
    return Sync(joins[0].join, shares["cpu"], shares["gpu"], kernels)  # type: ignore[arg-type]
