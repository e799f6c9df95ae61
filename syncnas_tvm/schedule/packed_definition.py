"""A packed kernel's operands: what every operator family's definition is written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import Expr

from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.schedule import convolutions, elementwise, fast_math, texture
from syncnas_tvm.schedule.convolutions import wide
from syncnas_tvm.schedule.layout import PACKED_ROWS, is_packable, pack, packed_shape
from syncnas_tvm.schedule.merge import redirect
from syncnas_tvm.work import Shape

Family = Literal[
    "dense", "winograd", "stem", "depthwise", "reduce", "pool", "elementwise", "matmul", "tokens"
]
Index = tuple[Expr, ...]
Value = Callable[[Index], Expr]
Pack = Callable[[], np.ndarray]
Pair = tuple[int, int]
SMALL_WINDOW = 3
"""Up to so many rows and columns the GPU lane looks at the border at each read: a padded copy costs more."""


@dataclass(frozen=True)
class Machine:
    """What a definition has to know of the lane: ``vector`` floats are a packed group of channels,
    ``columns`` vectors of a dense layer's outputs are computed together, ``tokens`` rows by half as
    many vectors where it has several rows, ``accumulators`` vectors a convolution's tile at most (0 where
    a kernel is to be of one piece).

    ``vectorised_exp`` chooses a polynomial over the target's own ``exp``; ``winograd`` allows that
    algorithm. ``dtype`` is the type of the lane's floats in memory, ``sums`` that of
    the sums that may be short of bits.
    ``texture_limit``: weights of dense convolutions are textures of so many texels a side at most, where it
    is not 0.
    """

    vector: int
    columns: int
    vectorised_exp: bool
    tokens: int = 4
    accumulators: int = 0
    winograd: bool = False
    dtype: str = "float32"
    sums: str = "float32"
    texture_limit: int = 0

    @property
    def whole(self) -> bool:
        """Whether a kernel is to be of one piece."""
        return self.accumulators == 0


@dataclass(frozen=True, eq=False)
class Operand:
    """A value that a kernel reads: ``packed`` or as it is; ``pack`` makes what a constant becomes."""

    value: relax.Expr
    packed: bool
    pack: Pack | None


@dataclass(frozen=True, eq=False)
class Definition:
    """A kernel's functions of its operands and its output, which is ``packed`` or as it is.

    There are several where the weight has structural zeros, or where tiles do not divide the channels or
    the rows: each writes a part of the output.
    """

    family: Family
    operands: tuple[Operand, ...]
    functions: tuple[tirx.PrimFunc, ...]
    packed: bool = True

    def in_rows(self, shape: Shape, first: int) -> Definition:
        """The same kernel, writing its packed output into one of ``shape`` from row ``first`` on."""
        functions = (redirect(f, shape, PACKED_ROWS, first) for f in self.functions)
        return replace(self, functions=tuple(functions))


class Unsupported(Exception):
    """A definition does not know this case: the operator is left to TVM's own."""


@dataclass(frozen=True)
class Part:
    """A main operator's output from ``first`` to ``last`` of the dimension that is divided."""

    first: int
    last: int
    value: Value | None = None


class Operands:
    """Reads a group's operands as placeholders, keeps values by what they stand for."""

    def __init__(self, group: Group, machine: Machine) -> None:
        self._group = group
        self._machine = machine
        self._vector = machine.vector
        self._operands: list[Operand] = []
        self._tensors: list[te.Tensor] = []
        self._textures: list[int] = []  # numbers of the operands that are
        self._values: dict[relax.Expr, Value] = {}
        self._parts: list[Part] = []
        self._divided = 0  # the output's dimension that the parts divide

    def _placeholder(
        self, operand: relax.Expr, shape: Shape, packed: bool, pack: Pack | None = None
    ) -> te.Tensor:
        tensor = te.placeholder(shape, self._machine.dtype, name=f"a{len(self._tensors)}")
        self._operands.append(Operand(operand, packed, pack))
        self._tensors.append(tensor)
        return tensor

    def _weight(
        self, operand: relax.Expr, shape: Shape, pack: Pack
    ) -> te.Tensor | texture.FromTexture:
        """A packed weight ``[O/V, ..., V out]``: a texture where the lane has them and it fits in one."""
        form, limit = texture.texture_shape(shape), self._machine.texture_limit
        if form is None or max(texture.image_size(form)) > limit:
            return self._placeholder(operand, shape, False, pack)
        self._textures.append(len(self._tensors))
        texels = self._placeholder(operand, form, False, lambda: texture.to_texture(pack()))
        return texture.FromTexture(texels, shape)

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

    def _operand(self, operand: relax.Expr, shape: Shape) -> Value:
        """An operand of an element-wise operator whose output has ``shape`` (NCHW)."""
        if operand in self._values:
            return self._values[operand]
        own = shape_of(operand)
        if is_constant(operand) and all(n == 1 for n in own):
            value = tirx.const(float(array_of(operand).reshape(())), "float32")
            return lambda index: value
        if len(shape) != 4:
            return self._plain_operand(operand, shape)
        aligned = (1,) * (4 - len(own)) + own
        if len(own) > 4 or aligned[:2] != shape[:2] or aligned[2:] not in (shape[2:], (1, 1)):
            raise Unsupported
        if not is_constant(operand) and not is_packable(own, "float32"):
            raise Unsupported
        packing = lambda: pack(array_of(operand).reshape(aligned), self._vector)  # noqa: E731
        if operand in self._group.views:
            tensor = self._map(operand)
        else:
            tensor = self._placeholder(operand, packed_shape(aligned, self._vector), True, packing)
        whole = aligned[2:] == shape[2:]
        value = lambda i: wide(tensor[i if whole else (i[0], 0, 0, i[3])])  # noqa: E731
        self._values[operand] = value
        return value

    def _plain_operand(self, operand: relax.Expr, shape: Shape) -> Value:
        rank = len(shape_of(operand))
        own = (1,) * (len(shape) - rank) + shape_of(operand)
        if len(own) > len(shape) or any(n not in (1, s) for n, s in zip(own, shape, strict=True)):
            raise Unsupported
        tensor = self._placeholder(operand, shape_of(operand), False, partial(array_of, operand))

        def value(index: Index) -> Expr:
            read = [i if n > 1 else 0 for i, n in zip(index, own, strict=True)]
            return wide(tensor[tuple(read[len(own) - rank :])])

        self._values[operand] = value
        return value

    def _elementwise(self, node: Node) -> Value:
        packed = is_packable(node.shape, node.dtype) or self._group.nodes[0].op == "matmul"
        if node.op not in elementwise.FUNCTIONS or not packed:
            raise Unsupported
        operands = [self._operand(operand, node.shape) for operand in node.operands]
        if node.op == "clip":
            low, high = (float(bound.value) for bound in node.expr.args[1:])
            bounds = tirx.const(low, "float32"), tirx.const(high, "float32")
            return lambda i: tirx.max(tirx.min(operands[0](i), bounds[1]), bounds[0])
        fast = fast_math.CURVES if self._machine.vectorised_exp else {}
        function = fast.get(node.op, elementwise.FUNCTIONS[node.op])
        return lambda i: function(*(operand(i) for operand in operands))


def array_of(constant: relax.Expr) -> np.ndarray:
    """A constant's numbers."""
    return constant.value.numpy()  # type: ignore[attr-defined]
