"""Reductions, pooling, padding and concatenation of packed feature maps."""

from __future__ import annotations

from itertools import accumulate

from tvm import te, tirx
from tvm.ir import Expr

from syncnas_tvm.graph.dataflow import Node, shape_of
from syncnas_tvm.schedule import convolutions
from syncnas_tvm.schedule.convolutions import wide
from syncnas_tvm.schedule.layout import (
    blocks,
    is_packable,
    packed_shape,
)
from syncnas_tvm.schedule.packed_definition import Family, Index, Operands, Unsupported


class Maps(Operands):
    """Defines what moves or reduces feature maps without weights."""

    def _pad_channels(self, node: Node) -> Family:
        """More channels, zero: what a packed vector holds behind the last channel may be anything."""
        (data,) = node.operands
        attrs, shape, v = node.attrs, shape_of(data), self._vector
        pads = [int(n) for n in attrs.pad_width]  # type: ignore[attr-defined]
        zero = attrs.pad_mode == "constant" and float(attrs.pad_value) == 0.0  # type: ignore[attr-defined]
        if not zero or any(pads[:3]) or any(pads[4:]) or not is_packable(shape, "float32"):
            raise Unsupported
        a, last = self._map(data), blocks(shape[1], v) - 1

        def value(index: Index) -> Expr:
            o, y, x, c = index
            inside = o * v + c < shape[1]
            return tirx.if_then_else(
                inside, wide(a[tirx.min(o, last), y, x, c]), tirx.const(0.0, "float32")
            )

        self._values[node.var] = value
        return "elementwise"

    def _concat(self, node: Node) -> Family:
        """Bands of rows one below the other, or channels of whole vectors one behind the other."""
        axis = int(node.attrs.axis) % 4  # type: ignore[attr-defined]
        if axis not in (1, 2) or not is_packable(node.shape, node.dtype):
            raise Unsupported
        unit = self._vector if axis == 1 else 1
        sizes = [shape_of(operand)[axis] for operand in node.operands]
        if any(size % unit for size in sizes[:-1]):
            raise Unsupported
        parts = [self._map(operand) for operand in node.operands]
        firsts = [first // unit for first in accumulate(sizes[:-1], initial=0)]

        def value(index: Index) -> Expr:
            o, y, x, c = index
            found: Expr | None = None
            for part, first, after in zip(
                reversed(parts), reversed(firsts), [0, *reversed(firsts)], strict=False
            ):
                here = part[o - first, y, x, c] if axis == 1 else part[o, y - first, x, c]
                at = o if axis == 1 else y
                found = here if found is None else tirx.if_then_else(at < after, here, found)
            return found

        self._values[node.var] = value
        return "elementwise"

    def _mean(self, node: Node) -> Family:
        (data,) = node.operands
        shape = shape_of(data)
        axes = sorted(int(a) % 4 for a in node.attrs.axis)  # type: ignore[attr-defined]
        if axes != [2, 3] or len(node.shape) != 4 or not is_packable(shape, "float32"):
            raise Unsupported
        a = self._map(data)
        y, x = te.reduce_axis((0, shape[2]), "y"), te.reduce_axis((0, shape[3]), "x")
        # Rows first: in one long sum of equal values, as in a flat map, all roundings go one way.
        out = packed_shape(node.shape, self._vector)
        rows = te.compute(
            (out[0], shape[2], 1, self._vector),
            lambda o, y, _x, v: te.sum(wide(a[o, y, x, v]), axis=[x]),
            name="rows",
        )
        acc = te.compute(out, lambda o, _y, _x, v: te.sum(rows[o, y, 0, v], axis=[y]), name="acc")
        scale = tirx.const(1.0 / (shape[2] * shape[3]), "float32")
        self._values[node.var] = lambda index: acc[index] * scale
        return "reduce"

    def _max_pool(self, node: Node) -> Family:
        (data,) = node.operands
        attrs, shape = node.attrs, shape_of(data)
        if not is_packable(shape, "float32"):
            raise Unsupported
        kh, kw = (int(k) for k in attrs.pool_size)  # type: ignore[attr-defined]
        sh, sw = (int(s) for s in attrs.strides)  # type: ignore[attr-defined]
        top, left, *_ = (int(p) for p in attrs.padding)  # type: ignore[attr-defined]
        if any(int(d) != 1 for d in attrs.dilation):  # type: ignore[attr-defined]
            raise Unsupported
        a = self._map(data)
        ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
        # With ceil_mode a window may reach further than the padding says: pad as far as it reads.
        bottom = max(0, (node.shape[2] - 1) * sh + kh - top - shape[2])
        right = max(0, (node.shape[3] - 1) * sw + kw - left - shape[3])
        p = convolutions.pad(a, (top, left, bottom, right), 1, tirx.min_value(self._machine.dtype))
        acc = te.compute(
            packed_shape(node.shape, self._vector),
            lambda o, y, x, v: te.max(p[o, y * sh + ky, x * sw + kx, v], axis=[ky, kx]),
            name="acc",
        )
        self._values[node.var] = lambda index: wide(acc[index])
        return "pool"
