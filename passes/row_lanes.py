"""How the lanes run a region that is split by rows, and how that is written."""

from __future__ import annotations

from tvm import relax

from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.graph.early_rows import EarlyRows
from syncnas_tvm.graph.rebuild import conv2d_like, with_operands
from syncnas_tvm.graph.rows import ROWS, RowBands
from syncnas_tvm.passes.lane_writer import LaneWriter, take_constant
from syncnas_tvm.work import LANES, Lane


class RowWriter(LaneWriter):
    """Writes each lane's bands of rows: lane functions phase by phase, and the joins.

    With ``early``, each lane's last kernel is cut in two: the lane function that ends the region
    computes the rows next to the cut, and another one the rest.
    """

    def __init__(
        self,
        builder: relax.BlockBuilder,
        region: str,
        bands: RowBands,
        params: list[relax.Var],
        early: EarlyRows | None = None,
    ) -> None:
        super().__init__(builder, region, bands.states.flow, params)
        self._bands = bands
        self._states = bands.states
        self._early = early
        self._part: RowBands | None = None  # what is written of the last kernel: border or rest

    def write(self) -> list[relax.Expr]:
        """Emit everything; the region's one result."""
        last = self._states.phases - 1
        (output,) = self._flow.outputs
        for phase in range(last + 1):
            if phase == last and self._early is not None:
                pieces = self._cut_phase(phase, self._early)
                break
            self._phase(phase)
            for node in self._phase_nodes(phase):
                if self._states.kind(node.var) == "partial":
                    self._shared[node.var] = self._reduced(node, phase)
        else:
            pieces = [self._value(output, lane) for lane in LANES]
        return [self._join_function("concat", last, pieces, self._concat)]

    def _cut_phase(self, phase: int, early: EarlyRows) -> list[relax.Expr]:
        """The last phase; the pieces of the result by row: rest, border, border, rest."""
        (output,) = self._flow.outputs
        last = [node for node in self._flow.nodes if node.var in early.last]
        read = {operand for node in last for operand in node.operands}
        borders: dict[Lane, relax.Expr] = {}
        self._part = early.border
        for lane in reversed(LANES):
            nodes = self._live_nodes(lane, phase)
            results = [n for n in nodes if n.var == output or n.var in read - early.last]
            self._function_of(lane, phase, nodes, results)
            borders[lane] = self._local[lane][output]
        self._part = early.rest
        for lane in reversed(LANES):
            self._function_of(lane, phase, last, [self._flow.definer[output]], "_rest")
        rests = {lane: self._local[lane][output] for lane in LANES}
        return [rests["cpu"], borders["cpu"], borders["gpu"], rests["gpu"]]

    def _bands_of(self, var: relax.Var) -> RowBands:
        """The rows that are written of ``var``."""
        cut = self._early is not None and self._part is not None and var in self._early.last
        return self._part if cut else self._bands  # type: ignore[return-value]

    def _phase_of(self, node: Node) -> int:
        return self._states.phase[node.var]

    def _leaves(self, node: Node, lane: Lane, phase: int) -> bool:
        if node.var in self._flow.outputs or self._states.kind(node.var) == "partial":
            return True
        readers = self._flow.readers.get(node.var, ())
        return any(self._phase_of(reader) > phase for reader, _ in readers)

    def _emit(self, node: Node, lane: Lane, env: dict[relax.Var, relax.Expr]) -> relax.Expr:
        operands = [self._operand(node, i, lane, env) for i in range(len(node.operands))]
        return self._builder.emit(self._rewritten(node, lane, operands), name_hint=node.name)

    def _operand(
        self, node: Node, position: int, lane: Lane, env: dict[relax.Var, relax.Expr]
    ) -> relax.Expr:
        """The rows that ``node`` reads of an operand; all of one that is not cut."""
        operand, bands = node.operands[position], self._bands_of(node.var)
        if self._states.cuts_constant(node, position):
            rows = bands.band(node.var, lane)
            return take_constant(operand, (rows,), len(shape_of(operand)) - 2)
        if is_constant(operand):
            return operand
        value = env[operand]
        if self._states.kind(operand) != "rows":
            return value
        made = operand not in self._flow.params
        first = self._bands_of(operand).band(operand, lane)[0] if made else 0
        begin, end = bands.reads(node, position, lane)
        if isinstance(value.ty, relax.TupleType) or end - begin == shape_of(value)[ROWS]:
            return value
        # A view: the kernel that reads it starts at another row.
        return self._builder.emit(
            relax.op.strided_slice(value, [ROWS], [begin - first], [end - first])
        )

    def _rewritten(self, node: Node, lane: Lane, operands: list[relax.Expr]) -> relax.Expr:
        """The node's operator with the padding that the lane's band has."""
        if node.var not in self._states.windows:
            return with_operands(node.expr, operands)
        above, below = self._bands_of(node.var).padding(node, lane)
        attrs = node.attrs
        sides = [int(p) for p in attrs.padding]  # type: ignore[attr-defined]
        padding = (above, sides[1], below, sides[3])
        if node.op == "nn.conv2d":
            return conv2d_like(node, operands, padding)
        pool = relax.op.nn.max_pool2d if node.op == "nn.max_pool2d" else relax.op.nn.avg_pool2d
        return pool(
            *operands,
            pool_size=attrs.pool_size,  # type: ignore[attr-defined]
            strides=attrs.strides,  # type: ignore[attr-defined]
            padding=padding,
            dilation=attrs.dilation,  # type: ignore[attr-defined]
            count_include_pad=attrs.count_include_pad,  # type: ignore[attr-defined]
        )

    def _pair(self, var: relax.Var) -> list[relax.Expr]:
        return [self._value(var, lane) for lane in LANES]

    def _concat(self, params: list[relax.Var]) -> relax.Expr:
        return self._builder.emit(relax.op.concat(params, ROWS))

    def _reduced(self, node: Node, phase: int) -> relax.Expr:
        """The lanes' sums added, or their means averaged by the rows that each has."""

        def body(params: list[relax.Var]) -> relax.Expr:
            ours, theirs = params
            if node.op == "sum":
                return self._builder.emit(relax.op.add(ours, theirs))
            begin, end = self._bands.owned(node.operands[0], "gpu")  # type: ignore[arg-type]
            share = (end - begin) / self._states.shape(node.operands[0])[ROWS]
            difference = self._builder.emit(relax.op.subtract(theirs, ours))
            scaled = relax.op.multiply(difference, relax.const(share, node.dtype))
            return self._builder.emit(relax.op.add(self._builder.emit(scaled), ours))

        return self._join_function("sum", phase, self._pair(node.var), body)
