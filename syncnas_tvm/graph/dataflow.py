"""A Relax function's dataflow as nodes: the view that the analyses read.

A node points at its Relax binding; it adds only what the analyses ask for all the time (operator
name, tensor operands, shape), so that there is no second graph IR beside Relax.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from math import prod

from tvm import relax
from tvm.ir.expr import GenericConst as Constant

from syncnas_tvm.errors import ModelError
from syncnas_tvm.work import Shape

TUPLE_GET_ITEM = "tuple_get_item"


@dataclass(eq=False)
class Node:
    """One binding.

    ``op`` is the operator's name without ``relax.``; ``operands`` its tensor operands, variables
    and constants, tuples flattened, shapes and scalars left out. ``shape`` is the output's; a
    ``split`` has its input's shape, and the items taken from it have theirs; ``piece`` then is the
    axis of the split and the item's first position on it.
    """

    index: int
    var: relax.Var
    expr: relax.Expr
    op: str
    operands: tuple[relax.Expr, ...]
    shape: Shape
    dtype: str
    piece: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        """The binding's name, which the frontend derives from the ONNX node."""
        return str(self.var.name)

    @property
    def attrs(self) -> object:
        """The operator's Relax attributes."""
        return self.expr.attrs

    @cached_property
    def macs(self) -> int:
        """Multiply-adds: of convolutions and dense layers, 0 for everything else."""
        if self.op == "nn.conv2d":
            return prod(self.shape) * prod(shape_of(self.operands[1])[1:])
        if self.op == "matmul":
            return prod(self.shape) * shape_of(self.operands[0])[-1]
        return 0

    @property
    def is_anchor(self) -> bool:
        """Heavy enough to begin a region of its own."""
        return self.macs > 0


def shape_of(expr: relax.Expr) -> Shape:
    """The static shape of a tensor expression, in elements."""
    return tuple(int(extent) for extent in expr.ty.shape.values)


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor expression, as NumPy names it."""
    return str(expr.ty.dtype)


def is_constant(expr: relax.Expr) -> bool:
    """A weight, or another tensor known at compile time."""
    return isinstance(expr, Constant)


class Dataflow:
    """The nodes of a function in program order, with who defines and who reads each value.

    Raises ModelError where the function is not one straight dataflow block of calls on tensors
    with static shapes, as the frontend makes it.
    """

    def __init__(self, function: relax.Function) -> None:
        self.function = function
        self.params: tuple[relax.Var, ...] = tuple(function.params)
        self.nodes: list[Node] = []
        self._alias: dict[relax.Var, relax.Var] = {}
        self._tuples: dict[relax.Var, relax.Tuple] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self._add(binding)
        self.outputs: tuple[relax.Var, ...] = self._outputs_of(function.body.body)
        self.definer: dict[relax.Var, Node] = {node.var: node for node in self.nodes}
        readers: dict[relax.Var, list[tuple[Node, int]]] = defaultdict(list)
        for node in self.nodes:
            for position, operand in enumerate(node.operands):
                if isinstance(operand, relax.Var):
                    readers[operand].append((node, position))
        self.readers = dict(readers)

    def resolve(self, expr: relax.Expr) -> relax.Expr:
        """The value that ``expr`` names, aliases followed."""
        while isinstance(expr, relax.Var) and expr in self._alias:
            expr = self._alias[expr]
        return expr

    def _add(self, binding: relax.Binding) -> None:
        value = binding.value
        if isinstance(value, relax.Var):
            self._alias[binding.var] = value
            return
        if isinstance(value, relax.Tuple):
            self._tuples[binding.var] = value
            return
        if isinstance(value, relax.TupleGetItem):
            source = self.resolve(value.tuple_value)
            self._append(binding.var, value, TUPLE_GET_ITEM, (source,))
            self.nodes[-1].piece = self._piece(source, int(value.index))
            return
        if not isinstance(value, relax.Call) or not hasattr(value.op, "name"):
            raise ModelError(
                f"node '{binding.var.name}': a {type(value).__name__} is not supported here; "
                "only operators on tensors are"
            )
        operands: list[relax.Expr] = []
        for arg in value.args:
            fields = arg.fields if isinstance(arg, relax.Tuple) else [arg]
            operands += [self.resolve(f) for f in fields if isinstance(f, relax.Var | Constant)]
        self._append(binding.var, value, value.op.name.removeprefix("relax."), tuple(operands))

    def _append(
        self, var: relax.Var, expr: relax.Expr, op: str, operands: tuple[relax.Expr, ...]
    ) -> None:
        if op == "split":
            shape, dtype = shape_of(operands[0]), dtype_of(operands[0])
        else:
            try:
                shape, dtype = shape_of(var), dtype_of(var)
            except (TypeError, ValueError, AttributeError) as error:
                raise ModelError(
                    f"node '{var.name}' ({op}): its shape is not static ({var.ty}); "
                    "fix the input shapes with --input-shapes"
                ) from error
        self.nodes.append(Node(len(self.nodes), var, expr, op, operands, shape, dtype))

    def _piece(self, source: relax.Expr, index: int) -> tuple[int, int]:
        split = next(
            (node for node in self.nodes if node.var == source and node.op == "split"), None
        )
        if split is None:
            raise ModelError(
                f"node '{self.nodes[-1].name}': operators with several outputs are not supported"
            )
        axis = int(split.attrs.axis) % len(split.shape)  # type: ignore[attr-defined]
        return axis, sum(int(field.shape[axis]) for field in source.ty.fields[:index])

    def _outputs_of(self, result: relax.Expr) -> tuple[relax.Var, ...]:
        result = self._tuples.get(result, result)
        fields = result.fields if isinstance(result, relax.Tuple) else [result]
        return tuple(self.resolve(field) for field in fields)
