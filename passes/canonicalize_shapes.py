"""One form for operators that only move or rename data."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, dtype_of, op_name, shape_of


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeShapes")
class CanonicalizeShapes:
    """Leave ``reshape``, ``permute_dims``, ``strided_slice`` and ``concat``, none of them idle.

    Squeeze, unsqueeze, flatten and transposes that move only dimensions of one are reshapes; two
    transposes in a row are one; a split is one slice per output that is read; dropout and
    no-ops disappear. Slices have non-negative axes and bounds inside the tensor.

    Before::

        parts = R.split(x, indices_or_sections=[12], axis=1)
        a = parts[0]
        b = R.squeeze(pooled, axis=[2, 3])
        c = R.reshape(b, (1, 960))

    After::

        a = R.strided_slice(x, axes=[1], begin=[0], end=[12], strides=[1])
        c = R.reshape(pooled, (1, 960))
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every such operator of ``main``."""
        return _Shapes(mod).run()


_RESHAPES = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")


class _Shapes(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        if isinstance(expr, relax.TupleGetItem):
            return self._field(expr)
        op, shape = op_name(expr), shape_of(expr)
        if not op or shape is None:
            return None
        if op in _RESHAPES:
            return self._reshape(expr, shape)
        if op == "relax.permute_dims":
            return self._transpose(expr, shape)
        if op == "relax.strided_slice":
            return _slice(expr)
        if op in ("relax.astype", "relax.broadcast_to") and expr.args:
            data = expr.args[0]
            same = shape_of(data) == shape and dtype_of(data) == dtype_of(expr)
            return data if same else None
        if op == "relax.concat" and isinstance(expr.args[0], relax.Tuple):
            return _concat(expr, len(shape))
        return None

    def _field(self, item: relax.TupleGetItem) -> relax.Expr | None:
        source = self.definition(item.tuple_value)
        if op_name(source) == "relax.nn.dropout" and item.index == 0:
            return source.args[0]
        if op_name(source) != "relax.split":
            return None
        data = source.args[0]
        extents = shape_of(data)
        if extents is None:
            return None
        axis = int(source.attrs.axis) % len(extents)
        extent, sections = extents[axis], source.attrs.indices_or_sections
        if isinstance(sections, (int, tvm.tirx.IntImm)):
            step = -(-extent // int(sections))
            begin, end = item.index * step, min((item.index + 1) * step, extent)
        else:
            cuts = [0, *(int(cut) for cut in sections), extent]
            begin, end = cuts[item.index], cuts[item.index + 1]
        return relax.op.strided_slice(data, [axis], [begin], [end], [1])

    def _reshape(self, call: tvm.ir.Call, shape: tuple[int, ...]) -> relax.Expr | None:
        data = call.args[0]
        inner = self.producer(data, "relax.reshape")
        if inner is not None:
            return relax.op.reshape(inner.args[0], shape)
        if shape_of(data) == shape:
            return data
        return None if op_name(call) == "relax.reshape" else relax.op.reshape(data, shape)

    def _transpose(self, call: tvm.ir.Call, shape: tuple[int, ...]) -> relax.Expr | None:
        data, order = call.args[0], _order(call)
        extents = shape_of(data) or ()
        inner = self.producer(data, "relax.permute_dims")
        if inner is not None:
            before = _order(inner)
            return relax.op.permute_dims(inner.args[0], [before[axis] for axis in order])
        moved = [axis for axis in order if extents[axis] != 1]
        return relax.op.reshape(data, shape) if moved == sorted(moved) else None


def _order(call: tvm.ir.Call) -> list[int]:
    rank, axes = len(shape_of(call) or ()), call.attrs.axes
    return list(reversed(range(rank))) if axes is None else [int(axis) % rank for axis in axes]


def _slice(call: tvm.ir.Call) -> relax.Expr | None:
    data = call.args[0]
    extents = shape_of(data)
    lists = [_ints(arg) for arg in call.args[1:5]]
    if extents is None or any(values is None for values in lists[:3]):
        return None
    axes, begins, ends = ([int(v) for v in values or []] for values in lists[:3])
    strides = list(lists[3]) if len(lists) > 3 and lists[3] else [1] * len(axes)
    if any(stride < 1 for stride in strides):
        return None  # a reversal: rare, and its bounds follow other rules
    kept = []
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        axis %= len(extents)
        extent = extents[axis]
        first = min(begin + extent if begin < 0 else begin, extent)
        last = min(end + extent if end < 0 else end, extent)
        if (first, last, stride) != (0, extent, 1):
            kept.append((axis, max(first, 0), max(last, 0), stride))
    if not kept:
        return data
    wanted = [list(column) for column in zip(*kept, strict=True)]
    if wanted == [axes, begins, ends, strides] and len(call.args) == 5:
        return None
    return relax.op.strided_slice(data, *wanted)


def _concat(call: tvm.ir.Call, rank: int) -> relax.Expr | None:
    fields, axis = call.args[0].fields, int(call.attrs.axis or 0)
    if len(fields) == 1:
        return fields[0]
    return relax.op.concat(call.args[0], axis % rank) if axis < 0 else None


def _ints(arg: relax.Expr) -> list[int] | None:
    fields = getattr(arg, "fields", None)
    if fields is None or not all(isinstance(f, tvm.tirx.IntImm) for f in fields):
        return None
    return [int(field) for field in fields]
