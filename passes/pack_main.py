"""The part of ``PackLanes`` that rewrites ``main``: packed values between the lane functions."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.graph.rebuild import emit_function, fresh_params, tensor_type
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.passes.insert_transfers import EXCHANGE, ROWS_TRANSFER, exchange
from syncnas_tvm.schedule.layout import PACKED_ROWS, is_packable, packed_shape
from syncnas_tvm.schedule.packed_kernels import PackedSchedules


def pack_main(
    builder: relax.BlockBuilder,
    main: relax.Function,
    packed: dict[str, tvm.ir.GlobalVar],
    schedules: PackedSchedules,
) -> None:
    """Add to ``builder`` a ``main`` that calls the packed functions by their old names.

    Transfers move packed values. The model's inputs and outputs keep their layout and type: the CPU
    lane converts them, in functions of its own. It also converts what moves between lanes of different
    types, before the copy or after it: a kernel on the GPU would cost a launch, and the copy to it
    twice the bytes. What comes from the GPU is converted where it is read, when the GPU has its work.
    """
    _MainPacker(builder, main, packed, schedules).write()


class _MainPacker:
    def __init__(
        self,
        builder: relax.BlockBuilder,
        main: relax.Function,
        packed: dict[str, tvm.ir.GlobalVar],
        schedules: PackedSchedules,
    ) -> None:
        self._builder = builder
        self._main = main
        self._packed = packed
        self._schedules = schedules
        self._env: dict[relax.Expr, relax.Expr] = {}
        self._casts: dict[tuple[relax.Expr, str], relax.Expr] = {}

    def write(self) -> None:
        params = fresh_params(self._main.params)
        attrs = {str(k): v for k, v in self._main.attrs.items() if k != "global_symbol"}
        inputs = dict(zip(self._main.params, params, strict=True))
        emit_function(
            self._builder, "main", params, lambda: self._body(inputs), attrs, private=False
        )

    def _body(self, inputs: dict[relax.Var, relax.Var]) -> list[relax.Expr]:
        for old, new in inputs.items():
            self._env[old] = self._convert(new, packing=True) if _packable(old) else new
        for block in self._main.body.blocks:
            for binding in block.bindings:
                self._env[binding.var] = self._rewrite(binding.value, binding.var.name)
        result = self._env[self._main.body.body]
        type_ = self._main.ret_ty
        if not isinstance(type_, relax.TupleType):
            return [self._output(result, type_)]
        return [
            self._output(self._item(result, i, "out"), field)
            for i, field in enumerate(type_.fields)
        ]

    def _output(self, value: relax.Expr, type_: relax.TensorType) -> relax.Expr:
        """One result of the old ``main``, of its type, in the model's own layout."""
        shape, dtype = tuple(int(n) for n in type_.shape), str(type_.dtype)
        value = self._cast(value, dtype)
        return (
            self._convert(value, packing=False, shape=shape) if is_packable(shape, dtype) else value
        )

    def _item(self, source: relax.Expr, index: int, name: str) -> relax.Expr:
        if isinstance(source, relax.Tuple):
            return source.fields[index]
        return self._builder.emit(relax.TupleGetItem(source, index), name_hint=name)

    def _rewrite(self, value: relax.Expr, name: str) -> relax.Expr:
        if isinstance(value, relax.Var):
            return self._env[value]
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._env[field] for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return self._item(self._env[value.tuple_value], value.index, name)
        if isinstance(value.op, tvm.ir.GlobalVar):
            callee = self._packed[value.op.name_hint]
            types = [str(type_.dtype) for type_ in callee.ty.params]
            args = [self._cast(self._env[a], t) for a, t in zip(value.args, types, strict=True)]
            call = relax.Call(callee, args)
        elif value.args[0].global_symbol == EXCHANGE:
            call = self._exchange(value)
        else:
            call = self._transfer(value)
        return self._builder.emit(call, name_hint=name)

    def _transfer(self, call: relax.Call) -> relax.Call:
        """A transfer of the value in its new layout; its first argument is the copy function."""
        function, value, *rest = call.args
        if function.global_symbol == ROWS_TRANSFER and _packable(value):
            rest[2] = relax.prim_value(PACKED_ROWS)
        dtype = self._schedules.types.stored(dtype_of(value), "gpu")
        value = self._cast(self._env[value], dtype)
        type_ = tensor_type(shape_of(value), dtype)
        return relax.Call(call.op, [function, value, *rest], call.attrs, [type_])

    def _exchange(self, call: relax.Call) -> relax.Call:
        """An exchange of rows of packed values, or of values that stay as they are."""
        _, own, source, _, *numbers = call.args
        axis = PACKED_ROWS if _packable(own) else ROWS
        rows = (int(number.value) for number in numbers)
        return exchange(self._env[own], self._env[source], *rows, axis=axis)

    def _convert(
        self, value: relax.Expr, packing: bool, shape: tuple[int, ...] | None = None
    ) -> relax.Expr:
        """A CPU-lane function around one conversion, called on ``value``."""
        shape = shape or shape_of(value)
        kernel = self._schedules.conversion(shape, "cpu", packing)
        callee = self._builder.add_func(kernel, "cpu_pack" if packing else "cpu_unpack")
        out = packed_shape(shape, self._schedules.vector) if packing else shape
        type_ = tensor_type(out, "float32")
        name = f"edge_{'pack' if packing else 'unpack'}"
        return self._edge(
            name, value, lambda param: relax.op.call_tir(callee, relax.Tuple([param]), type_)
        )

    def _cast(self, value: relax.Expr, dtype: str) -> relax.Expr:
        """``value``, which is on the CPU lane unless it has type ``dtype``, in that type."""
        if dtype_of(value) == dtype:
            return value
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = self._edge(
                "edge_cast", value, lambda param: relax.op.astype(param, dtype)
            )
        return self._casts[value, dtype]

    def _edge(
        self, name: str, value: relax.Expr, call: Callable[[relax.Var], relax.Call]
    ) -> relax.Expr:
        """A CPU-lane function around ``call``, called on ``value``."""
        params = fresh_params([value])

        def body() -> list[relax.Expr]:
            return [self._builder.emit(call(params[0]))]

        function = emit_function(self._builder, name, params, body, {LANE_ATTR: "cpu"})
        return self._builder.emit(relax.Call(function, [value]), name_hint=name)


def _packable(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and is_packable(shape_of(value), dtype_of(value))
