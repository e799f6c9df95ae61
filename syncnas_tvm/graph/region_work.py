"""Reads off a rewritten region what each lane does: the kernels, phases and syncs of a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import tvm
from tvm import relax

from syncnas_tvm.errors import RuleError
from syncnas_tvm.graph.calls import CallSite, bytes_of, calls_of
from syncnas_tvm.graph.dataflow import shape_of
from syncnas_tvm.graph.fusion import Group, groups_of
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.graph.seams import Reads, hull, joins_bands, reads_of, rows_read, whole_seam
from syncnas_tvm.work import LANES, Interval, Kernel, Lane, Phase, Seam, Sync, Work


def work_of(mod: tvm.IRModule, region: str) -> Work:
    """The work of the region whose function in ``mod`` a split rule has rewritten."""
    calls = written_calls(mod, region)
    numbers = sorted({call.phase for call in calls})
    phases = [_phase([c for c in calls if c.phase == number], calls) for number in numbers]
    if phases:
        phases[0] = replace(phases[0], reads=_reads(mod, region))
    return Work(tuple(phases))


def written_calls(mod: tvm.IRModule, region: str) -> tuple[CallSite, ...]:
    """What a rewritten region calls; raises RuleError where that is not lane functions and joins."""
    calls = calls_of(mod, mod[region]).calls
    for call in calls:
        if call.lane not in LANES and call.join is None:
            raise RuleError(
                f"the call of '{call.callee.name_hint}' is neither a lane function nor a join; "
                "set its attributes with lane_attrs or join_attrs"
            )
    return calls


def groups_in(mod: tvm.IRModule, region: str) -> list[Group]:
    """The kernels of a rewritten region with the nodes behind them, those of joins on both lanes."""
    found = []
    for call in calls_of(mod, mod[region]).calls:
        for lane in LANES if call.lane is None else (call.lane,):
            found += groups_of(call.function, lane)
    return found


def _reads(mod: tvm.IRModule, region: str) -> Reads | None:
    """The rows of the region's one feature map that each lane reads."""
    listed = calls_of(mod, mod[region])
    maps = [p for p in listed.params if len(shape_of(p)) == 4 and shape_of(p)[ROWS] > 1]
    if len(maps) != 1:
        return None
    (param,) = maps
    whole = (0, shape_of(param)[ROWS])

    def read(lane: Lane) -> Interval:
        return hull(
            rows_read(call.function, position) if call.lane else whole
            for call in listed.calls
            for position, arg in enumerate(call.args)
            if arg == param and call.lane in (lane, None)
        )

    return reads_of(read("cpu"), read("gpu"), whole[1])


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
        made = [(r, call.lane) for call in calls for r in call.results if r is not None]
        return Sync("copy", held["cpu"], held["gpu"], seam=whole_seam(made))  # type: ignore[arg-type]
    made_on = {result: c.lane for c in all_calls for result in c.results if c.lane}
    shares = {
        lane: bytes_of(tuple({a: None for j in joins for a in j.args if made_on.get(a) == lane}))
        for lane in LANES
    }
    kernels = tuple(group.kernel for j in joins for group in groups_of(j.function, "cpu"))
    seam = _seam(joins[0], made_on) if len(joins) == 1 else None
    return Sync(joins[0].join, shares["cpu"], shares["gpu"], kernels, seam)  # type: ignore[arg-type]


def _seam(join: CallSite, made_on: Mapping[relax.Var, Lane]) -> Seam | None:
    """Where the bands meet that ``join`` puts together, the CPU lane's above the GPU lane's."""
    if not joins_bands(join, made_on):
        return None
    (result,) = join.results
    height = shape_of(result)[ROWS]  # type: ignore[arg-type]
    rows = [shape_of(arg)[ROWS] for arg in join.args]
    seam = Seam(rows[0], height, bytes_of((result,)) // height)
    if len(rows) == 2:
        return seam
    return replace(seam, cut=rows[0] + rows[1], early=(rows[1], rows[2]))
