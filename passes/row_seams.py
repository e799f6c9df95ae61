"""The seams of ``main``: what each lane reads of them, and what that asks of the lane functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import CallList, CallSite
from syncnas_tvm.graph.dataflow import Dataflow, shape_of
from syncnas_tvm.graph.rebuild import copy_nodes, emit_function, fresh_params
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.graph.seams import hull, joins_bands, rows_read
from syncnas_tvm.work import LANES, Interval, Lane

ROOM_ATTR = "syncnas.room"
"""Which results of a lane function are the last ``nn.pad``'s: room for rows, of any content."""


@dataclass(frozen=True, eq=False)
class RowSeam:
    """A join that puts the lanes' bands together, and the rows of it that each lane reads.

    A lane that reads it makes its own band in a tensor with room for all rows.
    """

    bands: Mapping[Lane, relax.Var]
    cut: int
    height: int
    reads: Mapping[Lane, Interval]

    def missing(self, lane: Lane) -> Interval:
        """The rows that ``lane`` reads and lacks."""
        first, last = self.reads[lane]
        return (max(first, self.cut), last) if lane == "cpu" else (first, min(last, self.cut))

    def begin(self, lane: Lane) -> int:
        """The row of the whole that is the first one of what ``lane`` makes."""
        return 0 if lane == "cpu" or lane in self.reads else self.cut

    def room(self, lane: Lane) -> tuple[int, int] | None:
        """Rows above and below the lane's own; None where it makes its band alone."""
        if lane not in self.reads:
            return None
        return (0, self.height - self.cut) if lane == "cpu" else (self.cut, 0)


def find_seams(main: CallList) -> dict[relax.Var, RowSeam]:
    """By the join's result: the joins that nothing has to run.

    The CPU lane has the upper band, the GPU lane the lower one, and nobody else reads either.
    """
    uses = Counter(arg for call in main.calls for arg in call.args) + Counter(main.outputs)
    made_on = {result: call.lane for call in main.calls for result in call.results}
    found = {}
    for call in main.calls:
        if joins_bands(call, made_on) and all(uses[arg] == 1 for arg in call.args):
            (result,) = call.results
            upper, _ = call.args
            bands = dict(zip(LANES, call.args, strict=True))
            height = shape_of(result)[ROWS]  # type: ignore[arg-type]
            reads = rows_wanted(main, result, height)  # type: ignore[arg-type]
            found[result] = RowSeam(bands, shape_of(upper)[ROWS], height, reads)
    return found  # type: ignore[return-value]


def rows_wanted(main: CallList, value: relax.Var, height: int) -> dict[Lane, Interval]:
    """The rows of ``value`` that each lane reads; joins run on any lane and read all."""
    found: dict[Lane, list[Interval]] = {}
    for call in main.calls:
        for position, arg in enumerate(call.args):
            if arg != value:
                continue
            rows = rows_read(call.function, position) if call.lane else (0, height)
            for lane in (call.lane,) if call.lane else LANES:
                found.setdefault(lane, []).append(rows)
    if value in main.outputs:
        found.setdefault("cpu", []).append((0, height))
    return {lane: hull(intervals) for lane, intervals in found.items()}


def rooms_of(call: CallSite, seams: Mapping[relax.Var, RowSeam]) -> dict[int, tuple[int, int]]:
    """By position, the room that the results of a lane function have to leave."""
    found = {}
    for seam in seams.values():
        for lane, band in seam.bands.items():
            room = seam.room(lane)
            if room and band in call.results:
                found[call.results.index(band)] = room
    return found


def with_room(
    builder: relax.BlockBuilder,
    name: str,
    function: relax.Function,
    rooms: Mapping[int, tuple[int, int]],
) -> tvm.ir.GlobalVar:
    """Add ``function`` with the results at ``rooms`` in tensors of more rows.

    Written as padding, which the kernels leave out: nobody reads these rows before they are received.
    """
    flow = Dataflow(function)
    params = fresh_params(flow.params)
    env: dict[relax.Var, relax.Expr] = dict(zip(flow.params, params, strict=True))

    def body() -> list[relax.Expr]:
        copy_nodes(builder, flow.nodes, env)
        results = [env[output] for output in flow.outputs]
        for index, room in rooms.items():
            widths = [0] * 2 * ROWS + [*room, 0, 0]
            results[index] = builder.emit(relax.op.nn.pad(results[index], widths), "room")
        return results

    attrs = {str(k): v for k, v in function.attrs.items()}
    return emit_function(builder, name, params, body, {**attrs, ROOM_ATTR: sorted(rooms)})
