"""What a kernel computes on packed tensors: one TE definition per operator family.

A definition has the blocks ``pad`` (where there is padding), ``acc`` (the reduction, where there
is one; a mean has ``rows`` in front of it) and ``out`` (everything element-wise behind it), which the
schedules look up by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tvm import relax, te, tirx
from tvm.ir import Expr

from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.graph.fusion import ELEMENTWISE, Group
from syncnas_tvm.schedule import fast_math
from syncnas_tvm.schedule.layout import blocks, is_packable, packed_shape
from syncnas_tvm.work import Shape

Family = Literal["dense", "stem", "depthwise", "reduce", "pool", "elementwise"]
# How an operand reaches the kernel: packed, as it is, or a weight in one of the packed orders.
Form = Literal["packed", "plain", "dense_weight", "stem_weight", "depthwise_weight"]
Index = tuple[Expr, Expr, Expr, Expr]
Value = Callable[[Index], Expr]


@dataclass(frozen=True, eq=False)
class Definition:
    """A kernel's function of its operands, in the order and forms of ``operands``, and its output."""

    family: Family
    operands: tuple[tuple[relax.Expr, Form], ...]
    function: tirx.PrimFunc


def define(group: Group, vector: int, vectorised_exp: bool) -> Definition | None:
    """The packed definition of ``group``; None where one of its operators has none.

    ``vectorised_exp`` chooses a polynomial over the target's own ``exp``.
    """
    return _Definer(group, vector, vectorised_exp).define()


class _Unsupported(Exception):
    pass


class _Definer:
    def __init__(self, group: Group, vector: int, vectorised_exp: bool) -> None:
        self._group = group
        self._vector = vector
        self._fast = vectorised_exp
        self._operands: list[tuple[relax.Expr, Form]] = []
        self._tensors: list[te.Tensor] = []
        self._values: dict[relax.Expr, Value] = {}

    def define(self) -> Definition | None:
        head = self._group.nodes[0]
        last = self._group.nodes[-1]
        if not is_packable(last.shape, last.dtype):
            return None
        try:
            family = self._head(head)
            for node in self._group.nodes[1 if family != "elementwise" else 0 :]:
                self._values[node.var] = self._elementwise(node)
        except _Unsupported:
            return None
        result = self._values[last.var]
        shape = packed_shape(last.shape, self._vector)
        out = te.compute(shape, lambda o, y, x, v: result((o, y, x, v)), name="out")
        function = te.create_prim_func([*self._tensors, out])
        return Definition(family, tuple(self._operands), function)

    def _head(self, head: Node) -> Family:
        if head.op == "nn.conv2d":
            return self._convolution(head)
        if head.op == "mean":
            return self._mean(head)
        if head.op == "nn.max_pool2d":
            return self._max_pool(head)
        if head.op in ELEMENTWISE:
            return "elementwise"
        raise _Unsupported

    def _placeholder(self, operand: relax.Expr, form: Form, shape: Shape) -> te.Tensor:
        tensor = te.placeholder(shape, "float32", name=f"a{len(self._tensors)}")
        self._operands.append((operand, form))
        self._tensors.append(tensor)
        return tensor

    def _convolution(self, node: Node) -> Family:
        data, weight = node.operands
        attrs, v = node.attrs, self._vector
        shape, (out, into, kh, kw) = shape_of(data), shape_of(weight)
        groups = int(attrs.groups)  # type: ignore[attr-defined]
        if not is_constant(weight) or shape[0] != 1:
            raise _Unsupported
        sh, sw = (int(s) for s in attrs.strides)  # type: ignore[attr-defined]
        dh, dw = (int(d) for d in attrs.dilation)  # type: ignore[attr-defined]
        top, left, bottom, right = (int(p) for p in attrs.padding)  # type: ignore[attr-defined]
        pads = (top, left, bottom, right)
        ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
        oshape = packed_shape(node.shape, v)

        if groups == 1 and is_packable(shape, "float32"):
            ib = blocks(into, v)
            a = self._placeholder(data, "packed", packed_shape(shape, v))
            w = self._placeholder(weight, "dense_weight", (oshape[0], ib, kh, kw, v, v))
            p = _padded(a, pads, 1)
            i, vi = te.reduce_axis((0, ib), "i"), te.reduce_axis((0, v), "vi")
            acc = te.compute(
                oshape,
                lambda o, y, x, c: te.sum(
                    p[i, y * sh + ky * dh, x * sw + kx * dw, vi] * w[o, i, ky, kx, vi, c],
                    axis=[i, ky, kx, vi],
                ),
                name="acc",
            )
            self._values[node.var] = lambda index: acc[index]
            return "dense"
        if groups == 1:
            a = self._placeholder(data, "plain", shape)
            w = self._placeholder(weight, "stem_weight", (oshape[0], into, kh, kw, v))
            p = _padded(a, pads, 2)
            i = te.reduce_axis((0, into), "i")
            acc = te.compute(
                oshape,
                lambda o, y, x, c: te.sum(
                    p[0, i, y * sh + ky * dh, x * sw + kx * dw] * w[o, i, ky, kx, c],
                    axis=[i, ky, kx],
                ),
                name="acc",
            )
            self._values[node.var] = lambda index: acc[index]
            return "stem"
        if into == 1 and groups == out == shape[1] and is_packable(shape, "float32"):
            a = self._placeholder(data, "packed", packed_shape(shape, v))
            w = self._placeholder(weight, "depthwise_weight", (oshape[0], kh, kw, v))

            def tap(o: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
                row, in_row = _clamped(y * sh + ky * dh - top, shape[2])
                column, in_column = _clamped(x * sw + kx * dw - left, shape[3])
                return a[o, row, column, c] * (w[o, ky, kx, c] * in_row * in_column)

            acc = te.compute(
                oshape, lambda o, y, x, c: te.sum(tap(o, y, x, c), axis=[ky, kx]), name="acc"
            )
            self._values[node.var] = lambda index: acc[index]
            return "depthwise"
        raise _Unsupported

    def _mean(self, node: Node) -> Family:
        (data,) = node.operands
        shape = shape_of(data)
        axes = sorted(int(a) % 4 for a in node.attrs.axis)  # type: ignore[attr-defined]
        if axes != [2, 3] or len(node.shape) != 4 or not is_packable(shape, "float32"):
            raise _Unsupported
        a = self._placeholder(data, "packed", packed_shape(shape, self._vector))
        y, x = te.reduce_axis((0, shape[2]), "y"), te.reduce_axis((0, shape[3]), "x")
        # Rows first: in one long sum of equal values, as in a flat map, all roundings go one way.
        out = packed_shape(node.shape, self._vector)
        rows = te.compute(
            (out[0], shape[2], 1, self._vector),
            lambda o, y, _x, v: te.sum(a[o, y, x, v], axis=[x]),
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
            raise _Unsupported
        kh, kw = (int(k) for k in attrs.pool_size)  # type: ignore[attr-defined]
        sh, sw = (int(s) for s in attrs.strides)  # type: ignore[attr-defined]
        top, left, *_ = (int(p) for p in attrs.padding)  # type: ignore[attr-defined]
        if any(int(d) != 1 for d in attrs.dilation):  # type: ignore[attr-defined]
            raise _Unsupported
        a = self._placeholder(data, "packed", packed_shape(shape, self._vector))
        ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
        # With ceil_mode a window may reach further than the padding says: pad as far as it reads.
        bottom = max(0, (node.shape[2] - 1) * sh + kh - top - shape[2])
        right = max(0, (node.shape[3] - 1) * sw + kw - left - shape[3])
        p = _padded(a, (top, left, bottom, right), 1, tirx.min_value("float32"))
        acc = te.compute(
            packed_shape(node.shape, self._vector),
            lambda o, y, x, v: te.max(p[o, y * sh + ky, x * sw + kx, v], axis=[ky, kx]),
            name="acc",
        )
        self._values[node.var] = lambda index: acc[index]
        return "pool"

    def _operand(self, operand: relax.Expr, shape: Shape) -> Value:
        """An operand of an element-wise operator whose output has ``shape`` (NCHW)."""
        if operand in self._values:
            return self._values[operand]
        own = shape_of(operand)
        if is_constant(operand) and all(n == 1 for n in own):
            value = tirx.const(float(operand.value.numpy().reshape(())), "float32")  # type: ignore[attr-defined]
            return lambda index: value
        aligned = (1,) * (4 - len(own)) + own
        if len(own) > 4 or aligned[:2] != shape[:2] or aligned[2:] not in (shape[2:], (1, 1)):
            raise _Unsupported
        if not is_constant(operand) and not is_packable(own, "float32"):
            raise _Unsupported
        tensor = self._placeholder(operand, "packed", packed_shape(aligned, self._vector))
        whole = aligned[2:] == shape[2:]
        value = lambda i: tensor[i] if whole else tensor[i[0], 0, 0, i[3]]  # noqa: E731
        self._values[operand] = value
        return value

    def _elementwise(self, node: Node) -> Value:
        if node.op not in _FUNCTIONS or not is_packable(node.shape, node.dtype):
            raise _Unsupported
        operands = [self._operand(operand, node.shape) for operand in node.operands]
        if node.op == "clip":
            low, high = (float(bound.value) for bound in node.expr.args[1:])
            bounds = tirx.const(low, "float32"), tirx.const(high, "float32")
            return lambda i: tirx.max(tirx.min(operands[0](i), bounds[1]), bounds[0])
        if node.op in ("sigmoid", "nn.silu"):
            curve = fast_math.sigmoid if self._fast else _sigmoid
            if node.op == "sigmoid":
                return lambda i: curve(operands[0](i))
            return lambda i: operands[0](i) * curve(operands[0](i))
        function = _FUNCTIONS[node.op]
        return lambda i: function(*(operand(i) for operand in operands))


def _sigmoid(x: Expr) -> Expr:
    one = tirx.const(1.0, "float32")
    return one / (one + tirx.exp(tirx.const(0.0, "float32") - x))


_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": tirx.max,
    "minimum": tirx.min,
    "nn.relu": lambda a: tirx.max(a, tirx.const(0.0, "float32")),
    "clip": tirx.max,
    "sigmoid": _sigmoid,
    "nn.silu": _sigmoid,
}


def _clamped(index: Expr, extent: int) -> tuple[Expr, Expr]:
    """The nearest index that there is, and 1.0 where that is ``index`` itself, else 0.0.

    A tap outside of the map reads an element inside, with weight zero: one factor for a whole tile,
    where a test at each read would be a branch.
    """
    inside = tirx.all(index >= 0, index < extent)
    clamped = tirx.max(tirx.min(index, extent - 1), 0)
    return clamped, tirx.Cast("float32", inside)


def _padded(
    tensor: te.Tensor, pads: tuple[int, int, int, int], first: int, fill: Expr | None = None
) -> te.Tensor:
    """``tensor`` with its dimensions ``first`` and ``first + 1`` padded."""
    top, left, bottom, right = pads
    if not any(pads):
        return tensor
    shape = [int(n) for n in tensor.shape]
    height, width = shape[first], shape[first + 1]
    shape[first] += top + bottom
    shape[first + 1] += left + right

    def value(*index: Expr) -> Expr:
        y, x = index[first], index[first + 1]
        inside = [y >= top, y < top + height, x >= left, x < left + width]
        source = [*index[:first], y - top, x - left, *index[first + 2 :]]
        return tirx.if_then_else(
            tirx.all(*inside),
            tensor[tuple(source)],
            tirx.const(0.0, "float32") if fill is None else fill,
        )

    return te.compute(shape, value, name="pad")


def conversion(shape: Shape, vector: int, packing: bool) -> tirx.PrimFunc:
    """The kernel between NCHW and the packed layout: to it if ``packing``, else back."""
    packed = packed_shape(shape, vector)
    if packing:
        a = te.placeholder(shape, "float32", name="a0")
        fill = tirx.const(0.0, "float32")

        def value(o: Expr, y: Expr, x: Expr, v: Expr) -> Expr:
            channel = o * vector + v
            if shape[1] % vector == 0:
                return a[0, channel, y, x]
            return tirx.if_then_else(channel < shape[1], a[0, channel, y, x], fill)

        return te.create_prim_func([a, te.compute(packed, value, name="out")])
    a = te.placeholder(packed, "float32", name="a0")
    out = te.compute(shape, lambda n, c, y, x: a[c // vector + n, y, x, c % vector], name="out")
    return te.create_prim_func([a, out])
