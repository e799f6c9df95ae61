"""What a kernel computes on packed tensors: one TE definition per operator family.

A definition has the blocks ``pad`` (where there is padding), ``acc`` (the reduction, where there
is one; a mean has ``rows`` in front of it) and ``out`` (everything element-wise behind it), which the
schedules look up by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import Expr

from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.graph.fusion import ELEMENTWISE, Group
from syncnas_tvm.lane_types import HALF
from syncnas_tvm.schedule import convolutions, elementwise, fast_math, winograd
from syncnas_tvm.schedule.convolutions import wide
from syncnas_tvm.schedule.half_sums import dense_in_parts
from syncnas_tvm.schedule.layout import (
    blocks,
    input_step,
    is_packable,
    pack,
    pack_dense_weight,
    pack_depthwise_weight,
    pack_matrix,
    pack_stem_weight,
    packed_shape,
)
from syncnas_tvm.schedule.merge import redirect
from syncnas_tvm.schedule.zeros import Run, runs, share
from syncnas_tvm.work import Shape

Family = Literal[
    "dense", "winograd", "stem", "depthwise", "reduce", "pool", "elementwise", "matmul"
]
Index = tuple[Expr, ...]
Value = Callable[[Index], Expr]
Pack = Callable[[], np.ndarray]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """What a definition has to know of the lane: ``vector`` floats are a packed group of channels,
    ``columns`` vectors of a dense layer's outputs are computed together.

    ``vectorised_exp`` chooses a polynomial over the target's own ``exp``; ``winograd`` allows that
    algorithm. ``dtype`` is the type of the lane's floats in memory, ``sums`` that of
    the sums that may be short of bits.
    """

    vector: int
    columns: int
    vectorised_exp: bool
    winograd: bool = False
    dtype: str = "float32"
    sums: str = "float32"


@dataclass(frozen=True, eq=False)
class Operand:
    """A value that a kernel reads: ``packed`` or as it is; ``pack`` makes what a constant becomes."""

    value: relax.Expr
    packed: bool
    pack: Pack | None


@dataclass(frozen=True, eq=False)
class Definition:
    """A kernel's functions of its operands and its output, which is ``packed`` or as it is.

    There are several where the weight has structural zeros: each writes a part of the output.
    """

    family: Family
    operands: tuple[Operand, ...]
    functions: tuple[tirx.PrimFunc, ...]
    packed: bool = True


def define(group: Group, machine: Machine) -> Definition | None:
    """The packed definition of ``group``; None where one of its operators has none."""
    return _Definer(group, machine).define()


class _Unsupported(Exception):
    pass


@dataclass(frozen=True)
class _Window:
    """Attributes of a convolution; ``pads`` are top, left, bottom, right."""

    strides: Pair
    dilation: Pair
    pads: tuple[int, int, int, int]

    @staticmethod
    def of(node: Node) -> _Window:
        fields = (node.attrs.strides, node.attrs.dilation, node.attrs.padding)  # type: ignore[attr-defined]
        return _Window(*(tuple(int(n) for n in field) for field in fields))


@dataclass(frozen=True)
class _Part:
    """A main operator's output from ``first`` to ``last`` of its first dimension."""

    first: int
    last: int
    value: Value | None = None


class _Definer:
    def __init__(self, group: Group, machine: Machine) -> None:
        self._group = group
        self._machine = machine
        self._vector = machine.vector
        self._operands: list[Operand] = []
        self._tensors: list[te.Tensor] = []
        self._values: dict[relax.Expr, Value] = {}
        self._parts: list[_Part] = []

    def define(self) -> Definition | None:
        head = self._group.nodes[0]
        last = self._group.nodes[-1]
        packed = is_packable(last.shape, last.dtype)
        if not packed and head.op != "matmul":
            return None
        shape = packed_shape(last.shape, self._vector) if packed else last.shape
        try:
            family = self._head(head)
            outs = [self._output(part, shape) for part in self._parts or [_Part(0, shape[0])]]
        except _Unsupported:
            return None
        functions = [te.create_prim_func([*self._tensors, out]) for out in outs]
        if len(functions) > 1:
            functions = [
                redirect(function, shape, part.first)
                for function, part in zip(functions, self._parts, strict=True)
            ]
        return Definition(family, tuple(self._operands), tuple(functions), packed)

    def _output(self, part: _Part, shape: Shape) -> te.Tensor:
        """A part of the output: the main operator's, and everything element-wise behind it."""
        nodes = self._group.nodes
        if part.value is not None:
            self._values[nodes[0].var] = part.value
        for node in nodes[0 if nodes[0].op in ELEMENTWISE else 1 :]:
            self._values[node.var] = self._elementwise(node)
        result, first = self._values[nodes[-1].var], part.first
        return te.compute(
            (part.last - first, *shape[1:]),
            lambda o, *rest: result((o + first if first else o, *rest)).astype(self._machine.dtype),
            name="out",
        )

    def _head(self, head: Node) -> Family:
        if head.op == "nn.conv2d":
            return self._convolution(head)
        if head.op == "matmul":
            return self._matmul(head)
        if head.op == "mean":
            return self._mean(head)
        if head.op == "nn.max_pool2d":
            return self._max_pool(head)
        if head.op == "nn.pad":
            return self._pad_channels(head)
        if head.op == "concat":
            return self._concat(head)
        if head.op in ELEMENTWISE:
            return "elementwise"
        raise _Unsupported

    def _placeholder(
        self, operand: relax.Expr, shape: Shape, packed: bool, pack: Pack | None = None
    ) -> te.Tensor:
        tensor = te.placeholder(shape, self._machine.dtype, name=f"a{len(self._tensors)}")
        self._operands.append(Operand(operand, packed, pack))
        self._tensors.append(tensor)
        return tensor

    def _map(self, operand: relax.Expr) -> te.Tensor | convolutions.RowsOf:
        """A packed feature map."""
        return self._read(operand, packed=True)

    def _read(self, operand: relax.Expr, packed: bool) -> te.Tensor | convolutions.RowsOf:
        """A feature map, or the rows of one that ``operand`` is a view of."""
        view = self._group.views.get(operand)
        source = view.source if view else operand
        shape = packed_shape(shape_of(source), self._vector) if packed else shape_of(source)
        tensor = self._placeholder(source, shape, packed)
        if view is None:
            return tensor
        return convolutions.RowsOf(tensor, 1 if packed else 2, view.first, shape_of(operand)[2])

    def _matmul(self, node: Node) -> Family:
        """Rows times a constant matrix: ``columns`` vectors of outputs have their weights together."""
        data, weight = node.operands
        (rows, depth), v = shape_of(data), self._vector
        if not is_constant(weight) or node.dtype != "float32" or len(node.shape) != 2:
            raise _Unsupported
        columns = min(self._machine.columns, blocks(node.shape[1], v))
        groups = blocks(node.shape[1], columns * v)
        a = self._placeholder(data, (rows, depth), False)
        packing = partial(pack_matrix, _array(weight), columns, v)
        w = self._placeholder(weight, (groups, depth, columns, v), False, packing)
        k = te.reduce_axis((0, depth), "k")
        acc = te.compute(
            (rows, groups, columns, v),
            lambda m, g, j, c: te.sum(wide(a[m, k]) * wide(w[g, k, j, c]), axis=[k]),
            name="acc",
        )
        self._values[node.var] = lambda i: acc[
            i[0], i[1] // (columns * v), i[1] // v % columns, i[1] % v
        ]
        return "matmul"

    def _convolution(self, node: Node) -> Family:
        data, weight = node.operands
        attrs, shape = node.attrs, shape_of(data)
        out, into = shape_of(weight)[:2]
        groups = int(attrs.groups)  # type: ignore[attr-defined]
        if not is_constant(weight) or shape[0] != 1:
            raise _Unsupported
        if groups == 1 and not is_packable(shape, "float32"):
            return self._stem(node)
        if groups == 1:
            return self._winograd(node) if self._takes_winograd(node) else self._dense(node)
        if into == 1 and groups == out == shape[1] and is_packable(shape, "float32"):
            return self._depthwise(node)
        raise _Unsupported

    def _dense(self, node: Node) -> Family:
        data, weight = node.operands
        v, window = self._vector, _Window.of(node)
        step = input_step(shape_of(weight)[1], v)
        padded = convolutions.pad(self._map(data), window.pads, 1)
        whole = pack_dense_weight(_array(weight), v, step)
        for run in runs((whole != 0).any(axis=(2, 3, 4, 5))):
            ((low, high),), count = run.box, run.last - run.first
            packing = partial(_box_of, whole, run)
            size = (count, high - low, *shape_of(weight)[2:], step, v)
            w = self._placeholder(weight, size, False, packing)
            shape = (count, *packed_shape(node.shape, v)[1:])
            dense = dense_in_parts if self._machine.sums == HALF else convolutions.dense
            acc = dense(padded, w, shape, window.strides, window.dilation, low)
            self._parts.append(_Part(run.first, run.last, _from(acc, run.first)))
        return "dense"

    def _takes_winograd(self, node: Node) -> bool:
        window, weight = _Window.of(node), node.operands[1]
        out, into, *kernel = shape_of(weight)
        return (
            self._machine.winograd
            and kernel == [3, 3]
            and window.strides == window.dilation == (1, 1)
            and min(out, into) >= winograd.MIN_CHANNELS
            and min(node.shape[2:]) >= winograd.TILE
            and share(_array(weight)) == 1.0
        )

    def _winograd(self, node: Node) -> Family:
        data, weight = node.operands
        v, (top, left, _, _) = self._vector, _Window.of(node).pads
        rows, columns = winograd.tiles(node.shape)
        height, width = shape_of(data)[2:]
        # The tiles may reach further than the padding says.
        bottom = winograd.OUT * rows + 2 - top - height
        right = winograd.OUT * columns + 2 - left - width
        padded = convolutions.pad(self._map(data), (top, left, bottom, right), 1)
        blocks_out, blocks_in = blocks(node.shape[1], v), blocks(shape_of(data)[1], v)
        size = (blocks_out, winograd.TILE, winograd.TILE, blocks_in, v, v)
        packing = partial(winograd.pack_weight, _array(weight), v)
        w = self._placeholder(weight, size, False, packing)
        sums = winograd.multiply(winograd.transform_input(padded, rows, columns), w)
        self._values[node.var] = partial(winograd.transform_output, sums)
        return "winograd"

    def _stem(self, node: Node) -> Family:
        data, weight = node.operands
        v, window, shape = self._vector, _Window.of(node), packed_shape(node.shape, self._vector)
        padded = convolutions.pad(self._read(data, packed=False), window.pads, 2)
        packing = partial(pack_stem_weight, _array(weight), v)
        w = self._placeholder(weight, (shape[0], *shape_of(weight)[1:], v), False, packing)
        acc = convolutions.stem(padded, w, shape, window.strides, window.dilation)
        self._values[node.var] = lambda index: acc[index]
        return "stem"

    def _depthwise(self, node: Node) -> Family:
        data, weight = node.operands
        v, window = self._vector, _Window.of(node)
        a = self._map(data)
        whole = pack_depthwise_weight(_array(weight), v)
        for run in runs((whole != 0).any(axis=3)):
            (rows, columns), count = run.box, run.last - run.first
            packing = partial(_box_of, whole, run)
            size = (count, rows[1] - rows[0], columns[1] - columns[0], v)
            w = self._placeholder(weight, size, False, packing)
            before = (
                window.pads[0] - rows[0] * window.dilation[0],
                window.pads[1] - columns[0] * window.dilation[1],
            )
            shape = (count, *packed_shape(node.shape, v)[1:])
            acc = convolutions.depthwise(
                a,
                w,
                shape,
                window.strides,
                window.dilation,
                before,
                run.first,
                self._machine.sums,
            )
            self._parts.append(_Part(run.first, run.last, _from(acc, run.first)))
        return "depthwise"

    def _pad_channels(self, node: Node) -> Family:
        """More channels, zero: what a packed vector holds behind the last channel may be anything."""
        (data,) = node.operands
        attrs, shape, v = node.attrs, shape_of(data), self._vector
        pads = [int(n) for n in attrs.pad_width]  # type: ignore[attr-defined]
        zero = attrs.pad_mode == "constant" and float(attrs.pad_value) == 0.0  # type: ignore[attr-defined]
        if not zero or any(pads[:3]) or any(pads[4:]) or not is_packable(shape, "float32"):
            raise _Unsupported
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
            raise _Unsupported
        unit = self._vector if axis == 1 else 1
        sizes = [shape_of(operand)[axis] for operand in node.operands]
        if any(size % unit for size in sizes[:-1]):
            raise _Unsupported
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
            raise _Unsupported
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
            raise _Unsupported
        kh, kw = (int(k) for k in attrs.pool_size)  # type: ignore[attr-defined]
        sh, sw = (int(s) for s in attrs.strides)  # type: ignore[attr-defined]
        top, left, *_ = (int(p) for p in attrs.padding)  # type: ignore[attr-defined]
        if any(int(d) != 1 for d in attrs.dilation):  # type: ignore[attr-defined]
            raise _Unsupported
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

    def _operand(self, operand: relax.Expr, shape: Shape) -> Value:
        """An operand of an element-wise operator whose output has ``shape`` (NCHW)."""
        if operand in self._values:
            return self._values[operand]
        own = shape_of(operand)
        if is_constant(operand) and all(n == 1 for n in own):
            value = tirx.const(float(_array(operand).reshape(())), "float32")
            return lambda index: value
        if len(shape) == 2:
            return self._plain_operand(operand, shape)
        aligned = (1,) * (4 - len(own)) + own
        if len(own) > 4 or aligned[:2] != shape[:2] or aligned[2:] not in (shape[2:], (1, 1)):
            raise _Unsupported
        if not is_constant(operand) and not is_packable(own, "float32"):
            raise _Unsupported
        packing = lambda: pack(_array(operand).reshape(aligned), self._vector)  # noqa: E731
        if operand in self._group.views:
            tensor = self._map(operand)
        else:
            tensor = self._placeholder(operand, packed_shape(aligned, self._vector), True, packing)
        whole = aligned[2:] == shape[2:]
        value = lambda i: wide(tensor[i if whole else (i[0], 0, 0, i[3])])  # noqa: E731
        self._values[operand] = value
        return value

    def _plain_operand(self, operand: relax.Expr, shape: Shape) -> Value:
        own = (1,) * (2 - len(shape_of(operand))) + shape_of(operand)
        if len(own) > 2 or any(n not in (1, s) for n, s in zip(own, shape, strict=True)):
            raise _Unsupported
        tensor = self._placeholder(operand, shape_of(operand), False, partial(_array, operand))
        rank = len(shape_of(operand))

        def value(index: Index) -> Expr:
            read = [i if n > 1 else 0 for i, n in zip(index, own, strict=True)]
            return wide(tensor[tuple(read[2 - rank :])])

        self._values[operand] = value
        return value

    def _elementwise(self, node: Node) -> Value:
        packed = is_packable(node.shape, node.dtype) or self._group.nodes[0].op == "matmul"
        if node.op not in elementwise.FUNCTIONS or not packed:
            raise _Unsupported
        operands = [self._operand(operand, node.shape) for operand in node.operands]
        if node.op == "clip":
            low, high = (float(bound.value) for bound in node.expr.args[1:])
            bounds = tirx.const(low, "float32"), tirx.const(high, "float32")
            return lambda i: tirx.max(tirx.min(operands[0](i), bounds[1]), bounds[0])
        if node.op in ("sigmoid", "nn.silu"):
            curve = fast_math.sigmoid if self._machine.vectorised_exp else elementwise.sigmoid
            if node.op == "sigmoid":
                return lambda i: curve(operands[0](i))
            return lambda i: operands[0](i) * curve(operands[0](i))
        function = elementwise.FUNCTIONS[node.op]
        return lambda i: function(*(operand(i) for operand in operands))


def _from(tensor: te.Tensor, first: int) -> Value:
    """``tensor`` as the part of a value that begins at ``first``."""
    return lambda i: wide(tensor[(i[0] - first if first else i[0], *i[1:])])


def _array(constant: relax.Expr) -> np.ndarray:
    return constant.value.numpy()  # type: ignore[attr-defined]


def _box_of(whole: np.ndarray, run: Run) -> np.ndarray:
    """The run's part of a packed weight."""
    box = (slice(run.first, run.last), *(slice(*extent) for extent in run.box))
    return np.ascontiguousarray(whole[box])
