"""Own conversions of the ONNX operators that TVM's importer lowers too early or not at all.

Clip, Pad and Tile would become opaque ``call_tir`` kernels, ``auto_pad`` an explicit padding,
n-ary Max, Min, Sum and Mean a stack and a reduction, Split a tuple. A converter takes the block
builder, the inputs (missing ones are None), the node's attributes and a name for intermediate
values; it returns an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from tvm import relax

from syncnas_tvm.errors import ModelError
from syncnas_tvm.passes._dataflow import const, constant, dtype_of, shape_of

Inputs = Sequence[relax.Expr]
Converter = Callable[[relax.BlockBuilder, Inputs, dict[str, Any], str], relax.Expr]


def _clip(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    data, given = inputs[0], [attrs.get("min"), attrs.get("max")]
    for index in (0, 1):
        bound = inputs[index + 1] if len(inputs) > index + 1 else None
        if bound is not None:
            value = constant(bound)
            if value is None:
                raise ModelError(
                    f"node '{_node(attrs)}' (Clip) has a bound that is computed at run time: "
                    "only constant bounds are supported"
                )
            given[index] = float(value.reshape(()))
    # A bound that is not there, or not a number, does not limit anything.
    lo, hi = (
        default if bound is None or np.isnan(bound) else float(bound)
        for bound, default in zip(given, (-np.inf, np.inf), strict=True)
    )
    if not dtype_of(data).startswith("float"):
        limits = [(relax.op.maximum, lo), (relax.op.minimum, hi)]
        for apply, limit in limits:
            if np.isfinite(limit):
                data = apply(data, relax.const(int(limit), dtype_of(data)))
        return data
    return relax.op.clip(data, lo, hi)


def _conv(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    data, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    shape, kernel = _static(data, attrs), _static(weight, attrs)[2:]
    rank = len(shape) - 2
    build = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}[rank]
    letters = {1: "W", 2: "HW", 3: "DHW"}[rank]
    strides = [int(s) for s in attrs.get("strides", [1] * rank)]
    dilation = [int(d) for d in attrs.get("dilations", [1] * rank)]
    windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    result = bb.normalize(
        build(
            data,
            weight,
            strides=strides,
            padding=_pads(attrs, shape[2:], windows, strides),
            dilation=dilation,
            groups=int(attrs.get("group", 1)),
            data_layout=f"NC{letters}",
            kernel_layout=f"OI{letters}",
        )
    )
    if bias is None:
        return result
    along, values = (1, -1) + (1,) * rank, constant(bias)
    if values is not None:
        bias = const(values.reshape(along), dtype_of(bias))
    else:
        bias = relax.op.reshape(bias, (1, _static(bias, attrs)[0]) + (1,) * rank)
    # The convolution is what a user knows by the node's name; its bias comes after it.
    return relax.op.add(bb.emit(result, name), bias)


def _pads(
    attrs: dict[str, Any], extents: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """The padding before each dimension, then after each."""
    mode = attrs.get("auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", ""):
        return [int(pad) for pad in attrs.get("pads", [0] * 2 * len(extents))]
    before, after = [], []
    for extent, window, stride in zip(extents, windows, strides, strict=True):
        steps = -(-extent // stride)
        total = max((steps - 1) * stride + window - extent, 0) if mode != "VALID" else 0
        small, large = total // 2, total - total // 2
        before.append(large if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else large)
    return before + after


def _pad(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    data, rank = inputs[0], len(_static(inputs[0], attrs))
    pads = attrs.get("pads")
    if len(inputs) > 1 and inputs[1] is not None:
        pads = _values(inputs[1], "pads", attrs)
    fill = constant(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    value = float(attrs.get("value", 0.0) if fill is None else fill.reshape(()))
    axes = list(range(rank))
    if len(inputs) > 3 and inputs[3] is not None:
        axes = [axis % rank for axis in _values(inputs[3], "axes", attrs)]
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = int(pads[index]), int(pads[index + len(axes)])
    mode = attrs.get("mode", b"constant").decode()
    if any(pad < 0 for pad in before + after):
        data = bb.emit(_crop(data, _static(data, attrs), before, after), f"{name}_crop")
    widths = [max(pad, 0) for pair in zip(before, after, strict=True) for pad in pair]
    if not any(widths):
        return data
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return relax.op.nn.pad(data, widths, pad_mode=modes[mode], pad_value=value)


def _crop(
    data: relax.Expr, shape: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> relax.Expr:
    begins = [max(-pad, 0) for pad in before]
    ends = [extent - max(-pad, 0) for extent, pad in zip(shape, after, strict=True)]
    return relax.op.strided_slice(data, list(range(len(shape))), begins, ends)


def _gemm(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    lhs, rhs = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if attrs.get("transA", 0):
        lhs = bb.emit(relax.op.permute_dims(lhs, [1, 0]), f"{name}_transA")
    weight = constant(rhs)
    if weight is not None:
        rhs = const((weight.T if attrs.get("transB", 0) else weight) * np.float32(alpha))
    else:
        if attrs.get("transB", 0):
            rhs = bb.emit(relax.op.permute_dims(rhs, [1, 0]), f"{name}_transB")
        if alpha != 1.0:
            lhs = bb.emit(relax.op.multiply(lhs, const(alpha)), f"{name}_alpha")
    product = bb.normalize(relax.op.matmul(lhs, rhs))
    if bias is None or beta == 0.0:
        return product
    values, columns = constant(bias), _static(product, attrs)[-1]
    if values is not None:
        values = values * np.float32(beta)
        per_row = values.ndim == 2 and values.shape[0] > 1
        bias = const(values if per_row else np.broadcast_to(values.reshape(-1), (columns,)))
    elif beta != 1.0:
        bias = bb.emit(relax.op.multiply(bias, const(beta)), f"{name}_beta")
    return relax.op.add(bb.emit(product, name), bias)


def _pairwise(combine: Callable[..., relax.Expr]) -> Converter:
    def convert(
        bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str
    ) -> relax.Expr:
        return reduce(lambda lhs, rhs: bb.normalize(combine(lhs, rhs)), list(inputs))

    return convert


def _mean(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    total = _pairwise(relax.op.add)(bb, inputs, attrs, name)
    return relax.op.multiply(total, const(1.0 / len(inputs), dtype_of(total)))


def _split(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    data, count = inputs[0], int(attrs["tvm_custom"]["num_outputs"])
    shape = _static(data, attrs)
    axis = int(attrs.get("axis", 0)) % len(shape)
    sizes = attrs.get("split")
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = _values(inputs[1], "split", attrs)
    if sizes is None:
        step = -(-shape[axis] // count)  # the last part may be smaller
        sizes = [min(step, shape[axis] - step * index) for index in range(count)]
    cuts = [0, *accumulate(int(size) for size in sizes)]
    parts = [
        bb.normalize(relax.op.strided_slice(data, [axis], [begin], [end], [1]))
        for begin, end in pairwise(cuts)
    ]
    return relax.Tuple(parts) if len(parts) > 1 else parts[0]


def _tile(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    return relax.op.tile(inputs[0], _values(inputs[1], "repeats", attrs))


def _first(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    if int(attrs["tvm_custom"]["num_outputs"]) > 1:
        raise ModelError(
            f"node '{_node(attrs)}' (Dropout) has its mask as an output: "
            "export the model in evaluation mode"
        )
    return inputs[0]


def _node(attrs: dict[str, Any]) -> str:
    return str(attrs["tvm_custom"]["name"])


def _static(expr: relax.Expr, attrs: dict[str, Any]) -> tuple[int, ...]:
    shape = shape_of(expr)
    if shape is None:
        raise ModelError(
            f"node '{_node(attrs)}' works on a tensor whose shape is only known at run time: "
            "export the model with static shapes"
        )
    return shape


def _values(expr: relax.Expr, what: str, attrs: dict[str, Any]) -> list[int]:
    value = constant(expr)
    if value is None:
        raise ModelError(
            f"node '{_node(attrs)}' has {what} that are computed at run time: "
            "export the model with static shapes"
        )
    return [int(entry) for entry in value.reshape(-1)]


CONVERTERS: dict[str, Converter] = {
    "Clip": _clip,
    "Conv": _conv,
    "Dropout": _first,
    "Gemm": _gemm,
    "Max": _pairwise(relax.op.maximum),
    "Mean": _mean,
    "Min": _pairwise(relax.op.minimum),
    "Pad": _pad,
    "Split": _split,
    "Sum": _pairwise(relax.op.add),
    "Tile": _tile,
}
