"""The seams of ``main``: what each lane reads of them, and what that asks of the lane functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import CallList, CallSite
from syncnas_tvm.graph.dataflow import Dataflow, dtype_of, shape_of
from syncnas_tvm.graph.rebuild import copy_nodes, emit_function, fresh_params, tensor_type
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.graph.seams import hull, joins_bands, rows_read
from syncnas_tvm.work import LANES, Interval, Lane, Shape, other

ROOM_ATTR = "syncnas.room"
"""Which results of a lane function have room for other rows, of any content: those are the last
``nn.pad``'s, or, where there is a tensor of that room already, the last ``concat``'s, with its rows."""


@dataclass(frozen=True)
class Piece:
    """Rows of a lane's band, and the value that they are."""

    var: relax.Var
    rows: Interval


@dataclass(frozen=True, eq=False)
class RowSeam:
    """A join that puts the lanes' bands together, and the rows of it that each lane reads.

    ``pieces``: each lane's, in the order in which it makes them: its band, or the rows next to the cut
    and then the rest. A lane that reads the join makes its own in one tensor with room for all rows.
    """

    pieces: Mapping[Lane, tuple[Piece, ...]]
    cut: int
    height: int
    reads: Mapping[Lane, Interval]

    def missing(self, lane: Lane) -> Interval:
        """The rows that ``lane`` reads and lacks."""
        first, last = self.reads[lane]
        return (max(first, self.cut), last) if lane == "cpu" else (first, min(last, self.cut))

    def lacks(self, lane: Lane) -> bool:
        """Whether ``lane`` reads rows that it lacks."""
        first, last = self.missing(lane)
        return first < last

    def begin(self, lane: Lane, piece: Piece) -> int:
        """The row of the whole that is the first one of the tensor that ``piece`` is in."""
        return 0 if lane in self.reads else piece.rows[0]

    def early(self, lane: Lane) -> Piece | None:
        """What the other lane computes first, where that is all that ``lane`` lacks."""
        if lane not in self.reads:
            return None
        border, *rest = self.pieces[other(lane)]
        first, last = self.missing(lane)
        fits = border.rows[0] <= first < last <= border.rows[1]
        return border if rest and fits else None


@dataclass(frozen=True)
class Room:
    """Rows above and below a piece; ``into``: the earlier piece whose tensor it goes into."""

    above: int
    below: int
    into: relax.Var | None


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
            height = shape_of(result)[ROWS]  # type: ignore[arg-type]
            upper, lower = _pieces(call.args)
            pieces: dict[Lane, tuple[Piece, ...]] = {"cpu": upper[::-1], "gpu": lower}
            reads = rows_wanted(main, result, height)  # type: ignore[arg-type]
            found[result] = RowSeam(pieces, upper[-1].rows[1], height, reads)
    return found  # type: ignore[return-value]


def _pieces(args: Sequence[relax.Var]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """The CPU lane's and the GPU lane's, from the top; each has as many."""
    pieces, row = [], 0
    for arg in args:
        rows = shape_of(arg)[ROWS]
        pieces.append(Piece(arg, (row, row + rows)))
        row += rows
    half = len(pieces) // 2
    return tuple(pieces[:half]), tuple(pieces[half:])


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


def rooms_of(call: CallSite, seams: Mapping[relax.Var, RowSeam]) -> dict[int, Room]:
    """By position, the room that the results of a lane function have to leave."""
    found = {}
    for seam in seams.values():
        for lane in seam.reads:
            before = None
            for piece in seam.pieces[lane]:
                if piece.var in call.results:
                    room = Room(piece.rows[0], seam.height - piece.rows[1], before)
                    found[call.results.index(piece.var)] = room
                before = piece.var
    return found


def with_room(
    builder: relax.BlockBuilder,
    name: str,
    function: relax.Function,
    rooms: Mapping[int, Room],
) -> tvm.ir.GlobalVar:
    """Add ``function`` with the results at ``rooms`` in tensors of more rows.

    Written as padding, which the kernels leave out: nobody reads these rows before they are received.
    What goes into an earlier piece's tensor gets that as a parameter behind the others, and is written
    between its rows; the kernels write there in place.
    """
    flow = Dataflow(function)
    params = fresh_params(flow.params)
    env: dict[relax.Var, relax.Expr] = dict(zip(flow.params, params, strict=True))
    into = {
        index: relax.Var(
            "whole", tensor_type(_roomy(flow.outputs[index], room), dtype_of(flow.outputs[index]))
        )
        for index, room in rooms.items()
        if room.into is not None
    }

    def body() -> list[relax.Expr]:
        copy_nodes(builder, flow.nodes, env)
        results = [env[output] for output in flow.outputs]
        for index, room in rooms.items():
            whole = into.get(index)
            made = (
                _padded(results[index], room)
                if whole is None
                else _between(builder, whole, results[index], room)
            )
            results[index] = builder.emit(made, "room")
        return results

    attrs = {str(k): v for k, v in function.attrs.items()}
    return emit_function(
        builder, name, [*params, *into.values()], body, {**attrs, ROOM_ATTR: sorted(rooms)}
    )


def _padded(value: relax.Expr, room: Room) -> relax.Expr:
    return relax.op.nn.pad(value, [0] * 2 * ROWS + [room.above, room.below, 0, 0])


def _between(
    builder: relax.BlockBuilder, whole: relax.Var, value: relax.Expr, room: Room
) -> relax.Expr:
    """``whole`` with ``value`` in place of its own rows there."""
    height = shape_of(whole)[ROWS]
    parts = [value]
    if room.above:
        parts.insert(0, builder.emit(relax.op.strided_slice(whole, [ROWS], [0], [room.above])))
    if room.below:
        below = relax.op.strided_slice(whole, [ROWS], [height - room.below], [height])
        parts.append(builder.emit(below))
    return relax.op.concat(parts, ROWS)


def _roomy(value: relax.Expr, room: Room) -> Shape:
    shape = shape_of(value)
    return (*shape[:ROWS], room.above + shape[ROWS] + room.below, *shape[ROWS + 1 :])
