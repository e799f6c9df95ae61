"""What a kernel computes on packed tensors: one TE definition per operator family.

A definition has the blocks ``pad`` (where there is padding), ``acc`` (the reduction, where there
is one; a mean has ``rows`` in front of it) and ``out`` (everything element-wise behind it), which the
schedules look up by name.
"""

from __future__ import annotations

from tvm import te
from tvm.ir import Expr

from syncnas_tvm.graph.dataflow import Node
from syncnas_tvm.graph.fusion import ELEMENTWISE, Group
from syncnas_tvm.schedule.layout import (
    is_packable,
    packed_shape,
)
from syncnas_tvm.schedule.merge import redirect
from syncnas_tvm.schedule.packed_convolutions import Convolutions
from syncnas_tvm.schedule.packed_definition import Definition, Family, Machine, Part, Unsupported
from syncnas_tvm.schedule.packed_maps import Maps
from syncnas_tvm.schedule.texture import in_textures
from syncnas_tvm.work import Shape


def define(group: Group, machine: Machine) -> Definition | None:
    """The packed definition of ``group``; None where one of its operators has none."""
    return _Definer(group, machine).define()


class _Definer(Convolutions, Maps):
    """Defines a kernel by its main operator's family and what is fused behind it."""

    def define(self) -> Definition | None:
        head = self._group.nodes[0]
        last = self._group.nodes[-1]
        packed = is_packable(last.shape, last.dtype)
        if not packed and head.op != "matmul":
            return None
        shape = packed_shape(last.shape, self._vector) if packed else last.shape
        try:
            family = self._head(head)
            whole = [Part(0, shape[self._divided])]
            outs = [self._output(part, shape) for part in self._parts or whole]
        except Unsupported:
            return None
        functions = [
            in_textures(te.create_prim_func([*self._tensors, out]), self._textures) for out in outs
        ]
        if len(functions) > 1:
            functions = [
                redirect(function, shape, self._divided, part.first)
                for function, part in zip(functions, self._parts, strict=True)
            ]
        return Definition(family, tuple(self._operands), tuple(functions), packed)

    def _output(self, part: Part, shape: Shape) -> te.Tensor:
        """A part of the output: the main operator's, and everything element-wise behind it."""
        nodes = self._group.nodes
        if part.value is not None:
            self._values[nodes[0].var] = part.value
        for node in nodes[0 if nodes[0].op in ELEMENTWISE else 1 :]:
            self._values[node.var] = self._elementwise(node)
        result, first, at = self._values[nodes[-1].var], part.first, self._divided
        own = (*shape[:at], part.last - first, *shape[at + 1 :])

        def value(*index: Expr) -> Expr:
            moved = index[at] + first if first else index[at]
            return result((*index[:at], moved, *index[at + 1 :])).astype(self._machine.dtype)

        return te.compute(own, value, name="out")

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
        raise Unsupported
