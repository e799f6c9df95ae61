"""``PackLanes``: kernels on packed tensors, in place of operators on NCHW ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import relax, tirx

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.cuts import slice_begins
from syncnas_tvm.graph.dataflow import (
    TUPLE_GET_ITEM,
    Dataflow,
    Node,
    dtype_of,
    is_constant,
    shape_of,
)
from syncnas_tvm.graph.fusion import FREE, Group, groups_of
from syncnas_tvm.graph.rebuild import emit_function, tensor_type, with_operands
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.graph.views import RowView, row_view
from syncnas_tvm.passes.pack_main import pack_main
from syncnas_tvm.passes.row_seams import ROOM_ATTR
from syncnas_tvm.schedule.layout import is_packable, packed_shape
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_definition import Operand
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.work import Lane

CHANNELS = 1
LEAVING_ROWS = "_leaving_rows"
"""In the names of kernels that leave rows of their result to others: where the lanes share memory, the
runner lets the host write them meanwhile (runtime/runner/order_steps.cc)."""
# Operators that take values of any type as they are.
MOVING = FREE | {"concat", "split", "strided_slice", "permute_dims"}


@tvm.transform.module_pass(opt_level=0, name="PackLanes")
class PackLanes:
    """Give every feature map the layout ``[C/V, H, W, V]``, from region to region and lane to lane.

    In a lane function, each group of operators that has a packed definition becomes one scheduled
    kernel with its weights packed at compile time; the others stay, between conversions. Values
    between functions are packed on both lanes, so a transfer converts nothing; the model's own
    inputs and outputs are converted at its edges.

    Floats get the type of their lane. Kernels with a packed definition read and write it; other
    operators compute in float32, between casts, unless they only move data.

    Before::

        def r0_cpu(x: [1, 96, 14, 14]): return clip(conv2d(x, w) + b)     # lane cpu
        def main(x): return r0_cpu(x)

    After (V = 16)::

        def r0_cpu(x: [6, 14, 14, 16]): return call_tir(dense, (x, packed w, packed b))
        def main(x): return unpack(r0_cpu(pack(x)))
    """

    def __init__(self, schedules: PackedSchedules) -> None:
        self.schedules = schedules

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite the lane functions, then ``main``, if there is one, to pass packed values."""
        builder = relax.BlockBuilder()
        packed: dict[str, tvm.ir.GlobalVar] = {}
        for gv, function in mod.functions_items():
            if isinstance(function, relax.Function) and LANE_ATTR in (function.attrs or {}):
                lane: Lane = str(function.attrs[LANE_ATTR])  # type: ignore[assignment]
                packer = _FunctionPacker(builder, self.schedules, lane, function)
                packed[gv.name_hint] = packer.write(gv.name_hint)
        if any(gv.name_hint == "main" for gv in mod.get_global_vars()):
            pack_main(builder, mod["main"], packed, self.schedules)
        return builder.get()


@dataclass
class _Value:
    """One value of the old function in the new one: NCHW, packed, or NCHW in float32.

    Most readers of a ``view`` read what it is a view of; for the others it is copied.
    """

    plain: relax.Expr | None = None
    packed: relax.Expr | None = None
    wide: relax.Expr | None = None
    view: RowView | None = None


class _FunctionPacker:
    def __init__(
        self,
        builder: relax.BlockBuilder,
        schedules: PackedSchedules,
        lane: Lane,
        function: relax.Function,
    ) -> None:
        self._builder = builder
        self._schedules = schedules
        self._lane = lane
        self._function = function
        self._flow = Dataflow(function)
        self._vector = schedules.vector
        self._values: dict[relax.Expr, _Value] = {}
        roomy = [self._flow.outputs[i] for i in function.attrs.get(ROOM_ATTR, ())]
        # By the value that is to be in a tensor of more rows: see :meth:`_room`.
        self._rooms = dict(map(self._room, roomy))

    def write(self, name: str) -> tvm.ir.GlobalVar:
        """Add the packed function to the builder."""
        params = []
        for old in self._flow.params:
            shape, dtype = shape_of(old), self._stored(old)
            if is_packable(shape, dtype_of(old)):
                new = relax.Var(old.name, tensor_type(packed_shape(shape, self._vector), dtype))
                self._values[old] = _Value(packed=new)
            else:
                new = relax.Var(old.name, tensor_type(shape, dtype))
                self._values[old] = _Value(plain=new)
            params.append(new)
        private = "global_symbol" not in self._function.attrs
        left_out = ("global_symbol", ROOM_ATTR)
        attrs = {str(k): v for k, v in self._function.attrs.items() if k not in left_out}
        return emit_function(self._builder, name, params, self._body, attrs, private)

    def _room(self, value: relax.Var) -> tuple[relax.Expr, tuple[Node, int, relax.Expr | None]]:
        """The rows that are made; what puts them among others, where, and in which parameter, if any."""
        node = self._flow.definer[value]
        if node.op == "nn.pad":
            first = int(node.attrs.pad_width[2 * ROWS])  # type: ignore[attr-defined]
            return node.operands[0], (node, first, None)
        views = [row_view(self._flow, operand) for operand in node.operands]
        position = next(
            i for i, v in enumerate(views) if v is None or v.source not in self._flow.params
        )
        whole = next(view.source for i, view in enumerate(views) if view and i != position)
        first = shape_of(node.operands[0])[ROWS] if position else 0
        return node.operands[position], (node, first, whole)

    def _body(self) -> list[relax.Expr]:
        # A group is written where its last node was: all its operands are there by then.
        groups = {g.nodes[-1].var: g for g in groups_of(self._function, self._lane)}
        inner = {node.var for g in groups.values() for node in g.nodes[:-1]}
        for node in self._flow.nodes:
            if node.var in self._values:
                continue  # the room that a kernel has left
            if node.var in groups:
                self._group(groups[node.var])
            elif view := row_view(self._flow, node.var):
                self._values[node.var] = _Value(view=view)
            elif node.var not in inner:
                self._plain_nodes([node])
        results = []
        for output in self._flow.outputs:
            if is_packable(shape_of(output), dtype_of(output)):
                results.append(self._packed(output))
            else:
                results.append(self._plain(output))
        return results

    def _group(self, group: Group) -> None:
        definition = define(group, self._schedules.machine(self._lane))
        if definition is None:
            self._plain_nodes(group.nodes)
            return
        args = [self._argument(operand) for operand in definition.operands]
        last = group.nodes[-1]
        roomy = self._rooms.get(last.var) if definition.packed else None
        room = whole = None
        if roomy is not None:
            last, first, beside = roomy
            room = packed_shape(last.shape, self._vector), first
            whole = None if beside is None else self._packed(beside)
        kernel = self._schedules.kernel(definition, self._lane, room)
        name = f"packed_{definition.family}" + (LEAVING_ROWS if room else "")
        result = self._call(kernel, name, args, last.shape, definition.packed, last.name, whole)
        if definition.packed:
            self._values[last.var] = _Value(packed=result)
        else:
            self._values[last.var] = _Value(plain=result)

    def _argument(self, operand: Operand) -> relax.Expr:
        if is_constant(operand.value):
            return relax.const(operand.pack().astype(self._stored(operand.value)))
        return self._packed(operand.value) if operand.packed else self._plain(operand.value)

    def _plain_nodes(self, nodes: Sequence[Node]) -> None:
        """Operators that have no packed definition: as they are, on plain values."""
        for node in nodes:
            if (vectors := self._vectors(node)) is not None:
                self._values[node.var] = _Value(packed=vectors)
                continue
            moving = self._only_moves(node)
            read = self._plain if moving else self._wide
            operands = [o if is_constant(o) else read(o) for o in node.operands]
            value = self._builder.emit(with_operands(node.expr, operands), name_hint=node.name)
            self._values[node.var] = _Value(plain=value) if moving else _Value(wide=value)

    def _only_moves(self, node: Node) -> bool:
        if node.op == TUPLE_GET_ITEM:
            return self._values[node.operands[0]].plain is not None
        return node.op in MOVING and not any(is_constant(o) for o in node.operands)

    def _stored(self, value: relax.Expr) -> str:
        """The type in which the lane keeps ``value``."""
        return self._schedules.types.stored(dtype_of(value), self._lane)

    def _cast(self, value: relax.Expr, dtype: str) -> relax.Expr:
        if dtype_of(value) == dtype:
            return value
        return self._builder.emit(relax.op.astype(value, dtype), name_hint="cast")

    def _wide(self, value: relax.Expr) -> relax.Expr:
        found = self._values[value]
        if found.wide is None:
            found.wide = self._cast(self._plain(value), dtype_of(value))
        return found.wide

    def _plain(self, value: relax.Expr) -> relax.Expr:
        found = self._values[value]
        if found.plain is None and found.view:
            found.plain = self._rows(self._plain(found.view.source), ROWS, found.view, value)
        elif found.plain is None and found.packed is None:
            found.plain = self._cast(found.wide, self._stored(value))
        elif found.plain is None:
            shape = shape_of(value)
            dtype = dtype_of(found.packed)
            kernel = self._schedules.conversion(shape, self._lane, False, dtype)
            found.plain = self._call(kernel, "unpack", [found.packed], shape, False, "unpacked")
        return found.plain

    def _packed(self, value: relax.Expr) -> relax.Expr:
        found = self._values[value]
        if found.packed is None and found.view:
            found.packed = self._rows(self._packed(found.view.source), 1, found.view, value)
        if found.packed is None:
            shape, plain = shape_of(value), self._plain(value)
            kernel = self._schedules.conversion(shape, self._lane, True, dtype_of(plain))
            found.packed = self._call(kernel, "pack", [plain], shape, True, "packed")
        return found.packed

    def _rows(self, source: relax.Expr, axis: int, view: RowView, value: relax.Expr) -> relax.Expr:
        """A copy of the rows that ``value`` views."""
        end = view.first + shape_of(value)[ROWS]
        copied = relax.op.strided_slice(source, [axis], [view.first], [end])
        return self._builder.emit(copied, name_hint="rows")

    def _vectors(self, node: Node) -> relax.Expr | None:
        """A slice of a feature map's channels, if it has whole vectors of them: packed, a copy."""
        begins = slice_begins(node) if node.op == "strided_slice" else None
        if begins is None or list(begins) != [CHANNELS] or not is_packable(node.shape, node.dtype):
            return None
        (source,) = node.operands
        first, end = begins[CHANNELS], begins[CHANNELS] + node.shape[CHANNELS]
        if first % self._vector or (end % self._vector and end != shape_of(source)[CHANNELS]):
            return None
        bounds = [first // self._vector], [-(-end // self._vector)]
        copied = relax.op.strided_slice(self._packed(source), [0], *bounds)
        return self._builder.emit(copied, name_hint=node.name)

    def _call(
        self,
        kernel: tirx.PrimFunc,
        name: str,
        args: list[relax.Expr],
        shape: tuple[int, ...],
        packed: bool,
        hint: str,
        whole: relax.Expr | None = None,
    ) -> relax.Expr:
        """The kernel's result; with ``whole``, it is written in that tensor, in place."""
        callee = self._builder.add_func(kernel, f"{self._lane}_{name}")
        out = packed_shape(shape, self._vector) if packed else shape
        type_ = tensor_type(out, self._schedules.types.of(self._lane))
        if whole is None:
            call = relax.op.call_tir(callee, relax.Tuple(args), type_)
        else:
            call = relax.op.call_tir_inplace(
                callee, relax.Tuple([*args, whole]), [len(args)], type_
            )
        return self._builder.emit(call, name_hint=hint)
