"""How the lanes run a region that is split by rows, and how that is written."""

from __future__ import annotations

from tvm import relax

from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.graph.rebuild import conv2d_like, with_operands
from syncnas_tvm.graph.rows import ROWS, RowBands
from syncnas_tvm.passes.lane_writer import LaneWriter, take_constant
from syncnas_tvm.work import LANES, Lane


class RowWriter(LaneWriter):
    """Writes each lane's bands of rows: lane functions phase by phase, and the joins."""

    def __init__(
        self,
        builder: relax.BlockBuilder,
        region: str,
        bands: RowBands,
        params: list[relax.Var],
    ) -> None:
        super().__init__(builder, region, bands.states.flow, params)
        self._bands = bands
        self._states = bands.states

    def write(self) -> list[relax.Expr]:
        """Emit everything; the region's one result."""
        last = self._states.phases - 1
        for phase in range(last + 1):
            self._phase(phase)
            for node in self._phase_nodes(phase):
                if self._states.kind(node.var) == "partial":
                    self._shared[node.var] = self._reduced(node, phase)
        (output,) = self._flow.outputs
        return [self._join_function("concat", last, self._pair(output), self._concat)]

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
        operand = node.operands[position]
        if self._states.cuts_constant(node, position):
            rows = self._bands.band(node.var, lane)
            return take_constant(operand, (rows,), len(shape_of(operand)) - 2)
        if is_constant(operand):
            return operand
        value = env[operand]
        if self._states.kind(operand) != "rows":
            return value
        first = 0 if operand in self._flow.params else self._bands.band(operand, lane)[0]
        begin, end = self._bands.reads(node, position, lane)
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
        above, below = self._bands.padding(node, lane)
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
