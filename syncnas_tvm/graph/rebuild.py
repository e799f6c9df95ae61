"""Writing Relax functions from the nodes of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst as Constant

from syncnas_tvm.graph.dataflow import Node, dtype_of, shape_of
from syncnas_tvm.work import Shape


def tensor_type(shape: Shape, dtype: str) -> relax.TensorType:
    """A Relax tensor type with a static shape."""
    return relax.TensorType(shape, dtype)


def fresh_params(values: Sequence[relax.Expr]) -> list[relax.Var]:
    """New function parameters of the same names, shapes and types as ``values``."""
    return [
        relax.Var(getattr(value, "name", f"arg{i}"), tensor_type(shape_of(value), dtype_of(value)))
        for i, value in enumerate(values)
    ]


def with_operands(expr: relax.Expr, operands: Sequence[relax.Expr]) -> relax.Expr:
    """``expr`` with its tensor operands, in order, replaced by ``operands``."""
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(operands[0], expr.index)
    queue = list(operands)
    args = []
    for arg in expr.args:
        if isinstance(arg, relax.Tuple):
            fields = [queue.pop(0) if _is_tensor(f) else f for f in arg.fields]
            args.append(relax.Tuple(fields))
        else:
            args.append(queue.pop(0) if _is_tensor(arg) else arg)
    call = relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    return _typed(call) if getattr(expr.op, "name", "") == "relax.nn.conv2d" else call


def conv2d_like(
    node: Node,
    operands: Sequence[relax.Expr],
    padding: Sequence[int] | None = None,
    groups: int | None = None,
) -> relax.Call:
    """The convolution ``node`` of other operands, with other padding or groups where given."""
    attrs = node.attrs
    call = relax.op.nn.conv2d(
        *operands,
        strides=attrs.strides,  # type: ignore[attr-defined]
        padding=attrs.padding if padding is None else padding,  # type: ignore[attr-defined]
        dilation=attrs.dilation,  # type: ignore[attr-defined]
        groups=int(attrs.groups) if groups is None else groups,  # type: ignore[attr-defined]
    )
    return _typed(call)


def _typed(convolution: relax.Call) -> relax.Call:
    """A new ``convolution`` with its type set, which TVM takes a millisecond to infer.

    Other layouts than NCHW and OIHW are left to TVM, and operands that do not fit are for it to refuse.
    """
    attrs = convolution.attrs
    layouts = attrs.data_layout, attrs.kernel_layout, attrs.out_layout or attrs.data_layout
    if layouts != ("NCHW", "OIHW", "NCHW") or attrs.out_dtype:
        return convolution
    data, weight = convolution.args
    (batch, channels, *sizes), (out, share, *window) = shape_of(data), shape_of(weight)
    groups = int(attrs.groups)
    if channels != share * groups or out % groups:
        return convolution
    top, left, bottom, right = map(int, attrs.padding)
    pads = (top + bottom, left + right)
    size = [
        (size + pad - int(dilation) * (taps - 1) - 1) // int(stride) + 1
        for size, pad, dilation, taps, stride in zip(
            sizes, pads, attrs.dilation, window, attrs.strides, strict=True
        )
    ]
    relax.expr._update_type(convolution, tensor_type((batch, out, *size), dtype_of(data)))
    return convolution


def _is_tensor(expr: relax.Expr) -> bool:
    return isinstance(expr, relax.Var | Constant)


def emit_function(
    builder: relax.BlockBuilder,
    name: str,
    params: Sequence[relax.Var],
    body: Callable[[], Sequence[relax.Expr]],
    attrs: Mapping[str, object],
    private: bool = True,
) -> tvm.ir.GlobalVar:
    """Add a function of one dataflow block to ``builder``.

    ``body`` emits the bindings and returns the results: one tensor, or a tuple of several.
    """
    with builder.function(name, list(params), attrs=dict(attrs), private=private):
        with builder.dataflow():
            results = list(body())
            result = results[0] if len(results) == 1 else relax.Tuple(results)
            output = builder.emit_output(result)
        return builder.emit_func_output(output)


def emit_call(
    builder: relax.BlockBuilder,
    callee: tvm.ir.GlobalVar,
    args: Sequence[relax.Expr],
    results: int,
    name: str = "",
) -> list[relax.Var]:
    """Emit a call of a function that returns ``results`` values; the values."""
    call = builder.emit(relax.Call(callee, list(args)), name_hint=name)
    if results == 1:
        return [call]
    return [builder.emit(relax.TupleGetItem(call, i)) for i in range(results)]


def copy_nodes(
    builder: relax.BlockBuilder, nodes: Sequence[Node], env: dict[relax.Var, relax.Expr]
) -> None:
    """Emit copies of ``nodes``; ``env`` maps old values to new ones and grows by theirs."""
    for node in nodes:
        operands = [env[o] if isinstance(o, relax.Var) else o for o in node.operands]
        env[node.var] = builder.emit(with_operands(node.expr, operands), name_hint=node.name)
