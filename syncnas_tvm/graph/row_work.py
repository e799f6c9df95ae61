"""What each lane does when a run of regions is split by rows, without writing it.

A run's bands follow from its end alone: each region tells which rows of its input it reads, and these
are what the region before has to compute. So each region is looked at once for each band that is
asked of it, and all runs are put together from that: thousands of variants in a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tvm import relax

from syncnas_tvm.graph.dataflow import Dataflow, Node
from syncnas_tvm.graph.early_rows import Numbers, last_kernel, parts_of
from syncnas_tvm.graph.fusion import Group, groups_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.rows import ROWS, RowBands, RowStates
from syncnas_tvm.graph.seams import reads_of
from syncnas_tvm.work import (
    LANES,
    Epilogue,
    Interval,
    Kernel,
    Lane,
    Phase,
    Seam,
    Shape,
    Sync,
    Work,
    tensor_bytes,
)

Ends = tuple[Interval, Interval]
"""The CPU and the GPU lane's rows of a value."""


def splits(graph: RegionGraph, name: str) -> bool:
    """Whether the region can be part of a run that is split by rows."""
    return _rows_of(graph, name).states.splits


def run_work(
    graph: RegionGraph, names: Sequence[str], cut: int, early: Numbers | None = None
) -> Work | None:
    """The work of regions ``names`` whose output is cut before row ``cut``.

    ``early``: how many rows next to the cut each lane computes first. None where a lane would have no
    rows of some value. The regions are such that ``splits``.
    """
    known: dict[tuple[tuple[str, ...], int], Work | None] = graph.__dict__.setdefault(
        "_row_work", {}
    )
    key = (tuple(names), cut)
    if key not in known:
        known[key] = _run_work(graph, names, cut)
    found = known[key]
    return found and (_cut_last(graph, names[-1], found, cut, early) if early else found)


def _cut_last(graph: RegionGraph, name: str, work: Work, cut: int, early: Numbers) -> Work | None:
    """``work`` with each lane's last kernel, which is of region ``name``, cut in two."""
    rows = _rows_of(graph, name)
    found = parts_of(cut, rows.output.shape[ROWS], early)
    if found is None or last_kernel(rows.states, rows.groups) is None:
        return None
    parts = []
    for bands in found:
        piece = rows.piece((bands["cpu"], bands["gpu"]))
        if piece is None:
            return None
        parts.append(piece.phases[-1])
    last = work.phases[-1]
    cpu, gpu = ([part.kernels(lane)[-1] for part in parts] for lane in LANES)
    (join,) = last.output.join
    shapes = (k.out_shape for k in (*reversed(cpu), *gpu))
    joined = replace(join, shapes=(*shapes, join.out_shape))
    seam = replace(last.output.seam, early=early)
    output = replace(last.output, join=(joined,), seam=seam)
    kernels = {"cpu": (*last.cpu[:-1], *cpu), "gpu": (*last.gpu[:-1], *gpu)}
    return Work((*work.phases[:-1], replace(last, **kernels, output=output)))


def _run_work(graph: RegionGraph, names: Sequence[str], cut: int) -> Work | None:
    output = _rows_of(graph, names[-1]).output
    wanted: Ends | None = ((0, cut), (cut, output.shape[ROWS]))
    pieces: list[_Piece] = []
    for name in reversed(names):
        piece = _rows_of(graph, name).piece(wanted) if wanted else None
        if piece is None:
            return None
        pieces.append(piece)
        wanted = piece.inputs
    phases: list[Phase] = []
    for piece in reversed(pieces):
        first, *rest = piece.phases
        if phases:  # the region goes on in the phase in which the one before ends
            before = phases.pop()
            first = replace(first, cpu=before.cpu + first.cpu, gpu=before.gpu + first.gpu)
        phases += [first, *rest]
    bands = [_with_rows(output.shape, end) for end in ((0, cut), (cut, output.shape[ROWS]))]
    held = [tensor_bytes(shape, output.dtype) for shape in bands]
    joined = Kernel(
        "concat", (*bands, output.shape), output.dtype, "cpu", (("axis", ROWS),), name="concat"
    )
    seam = Seam(
        cut, output.shape[ROWS], tensor_bytes(_with_rows(output.shape, (0, 1)), output.dtype)
    )
    phases[-1] = replace(phases[-1], output=Sync("concat", held[0], held[1], (joined,), seam))
    phases[0] = replace(phases[0], reads=_reads(graph, names[0], wanted))
    return Work(tuple(phases))


def _reads(graph: RegionGraph, first: str, inputs: Ends | None) -> Ends | None:
    """What a run's phases read of its input, from the bands that its ``first`` region needs."""
    spatial = [s for s in graph.region(first).in_shapes if len(s) == 4 and s[ROWS] > 1]
    return reads_of(*inputs, spatial[0][ROWS]) if inputs and len(spatial) == 1 else None


@dataclass(frozen=True)
class _Piece:
    """A region's part of a run: its phases, and the rows of its input that each lane needs."""

    phases: tuple[Phase, ...]
    inputs: Ends | None


class _RegionRows:
    """A region's analysis, and its pieces by the rows that are wanted of it."""

    def __init__(self, function: relax.Function) -> None:
        self._function = function
        self.states = RowStates(Dataflow(function))
        self._pieces: dict[Ends, _Piece | None] = {}

    @property
    def output(self) -> Node:
        """The node of the region's result."""
        flow = self.states.flow
        return flow.definer[flow.outputs[0]]

    def piece(self, wanted: Ends) -> _Piece | None:
        """The region's part of a run; None where a lane would have no rows of some value."""
        if wanted not in self._pieces:
            try:
                bands = RowBands(self.states, dict(zip(LANES, wanted, strict=True)))
                self._pieces[wanted] = self._piece(bands)
            except ValueError:
                self._pieces[wanted] = None
        return self._pieces[wanted]

    @cached_property
    def groups(self) -> list[Group]:
        """The region's kernels."""
        return groups_of(self._function, "cpu")

    def _piece(self, bands: RowBands) -> _Piece:
        states = self.states
        phases = []
        for phase in range(states.phases):
            groups = [g for g in self.groups if states.phase[g.nodes[0].var] == phase]
            kernels = {lane: tuple(band_kernel(g, bands, lane) for g in groups) for lane in LANES}
            partial = [g.nodes[0] for g in groups if states.kind(g.nodes[0].var) == "partial"]
            held = sum(tensor_bytes(node.shape, node.dtype) for node in partial)
            joins = tuple(_reduction(node) for node in partial)
            phases.append(Phase(kernels["cpu"], kernels["gpu"], Sync("sum", held, held, joins)))
        spatial = [p for p in states.flow.params if states.kind(p) == "rows"]
        found = bands.bands(spatial[0]) if len(spatial) == 1 else None
        return _Piece(tuple(phases), (found["cpu"], found["gpu"]) if found else None)


def band_kernel(group: Group, bands: RowBands, lane: Lane) -> Kernel:
    """The group's kernel on the rows of ``lane``."""
    states, head = bands.states, group.nodes[0]

    def shape(node: Node, position: int) -> Shape:
        operand = node.operands[position]
        own = states.shape(operand)
        if states.kind(operand) == "rows":
            return _with_rows(own, bands.reads(node, position, lane))
        if states.cuts_constant(node, position):
            begin, end = bands.band(node.var, lane)
            return (*own[:-2], end - begin, own[-1])
        return own

    out = head.shape
    if states.kind(head.var) == "rows":
        out = _with_rows(out, bands.band(head.var, lane))
    attrs = group.kernel.attrs
    if head.var in states.windows:
        above, below = bands.padding(head, lane)
        attrs = tuple(
            (key, (above, value[1], below, value[3]) if key == "padding" else value)  # type: ignore[index]
            for key, value in attrs
        )
    inside = {head.var}
    epilogue = []
    for node, step in zip(group.nodes[1:], group.kernel.epilogue, strict=True):
        others = tuple(shape(node, i) for i, o in enumerate(node.operands) if o not in inside)
        epilogue.append(Epilogue(step.op, others, step.attrs))
        inside.add(node.var)
    shapes = (*(shape(head, i) for i in range(len(head.operands))), out)
    return replace(group.kernel, shapes=shapes, lane=lane, attrs=attrs, epilogue=tuple(epilogue))


def _reduction(node: Node) -> Kernel:
    """What joins the lanes' means or sums; see ``passes/row_lanes.py``."""
    shapes = (node.shape,) * 3
    if node.op == "sum":
        return Kernel("add", shapes, node.dtype, "cpu")
    average = (Epilogue("multiply", ((),)), Epilogue("add", (node.shape,)))
    return Kernel("subtract", shapes, node.dtype, "cpu", epilogue=average)


def _with_rows(shape: Shape, rows: Interval) -> Shape:
    return (*shape[:ROWS], rows[1] - rows[0], *shape[ROWS + 1 :])


def _rows_of(graph: RegionGraph, name: str) -> _RegionRows:
    """The region's analysis, kept on the graph."""
    cache: dict[str, _RegionRows] = graph.__dict__.setdefault("_row_analyses", {})
    if name not in cache:
        cache[name] = _RegionRows(graph.function(name))
    return cache[name]
