"""Own conversions of Conv, pooling and Pad: paddings become numbers in one place.

TVM's importer turns ``auto_pad`` of a convolution into a padding operator and Pad into an opaque
``call_tir`` kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from syncnas_tvm.errors import ModelError
from syncnas_tvm.frontend.converting import (
    Converter,
    Inputs,
    int_values,
    node_of,
    optional,
    static_shape,
)
from syncnas_tvm.passes._dataflow import const, constant, dtype_of


def _conv(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    data, weight = inputs[0], inputs[1]
    bias = optional(inputs, 2)
    shape, kernel = static_shape(data, attrs), static_shape(weight, attrs)[2:]
    rank = len(shape) - 2
    if not 1 <= rank <= 3 or len(kernel) != rank:
        raise ModelError(
            f"node '{node_of(attrs)}' (Conv) has an input of shape {list(shape)} and a kernel of "
            f"{list(kernel)}: they do not fit, export the model again"
        )
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
        bias = relax.op.reshape(bias, (1, static_shape(bias, attrs)[0]) + (1,) * rank)
    # The convolution is what a user knows by the node's name; its bias comes after it.
    return bb.emit(relax.op.add(bb.emit(result, name), bias), f"{name}_bias")


def _pool(kind: str) -> Converter:
    def convert(
        bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str
    ) -> relax.Expr:
        if int(attrs["tvm_custom"]["num_outputs"]) > 1:
            raise ModelError(
                f"node '{node_of(attrs)}' has the indices of its maxima as an output: "
                "only the maxima are supported"
            )
        window = [int(k) for k in attrs["kernel_shape"]]
        strides = [int(s) for s in attrs.get("strides", [1] * len(window))]
        dilation = [int(d) for d in attrs.get("dilations", [1] * len(window))]
        extents = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        pads = _pads(attrs, static_shape(inputs[0], attrs)[2:], extents, strides)
        build = getattr(relax.op.nn, f"{kind}_pool{len(window)}d")
        ceil = bool(attrs.get("ceil_mode", 0))
        counted = bool(attrs.get("count_include_pad", 0))
        return build(inputs[0], window, strides, pads, dilation, ceil, counted)

    return convert


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
    data, rank = inputs[0], len(static_shape(inputs[0], attrs))
    pads = list(attrs.get("pads", []))
    if optional(inputs, 1) is not None:
        pads = int_values(inputs[1], "pads", attrs)
    fill = constant(optional(inputs, 2))
    value = float(attrs.get("value", 0.0) if fill is None else fill.reshape(()))
    axes = list(range(rank))
    if optional(inputs, 3) is not None:
        axes = [axis % rank for axis in int_values(inputs[3], "axes", attrs)]
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = int(pads[index]), int(pads[index + len(axes)])
    mode = attrs.get("mode", b"constant").decode()
    if any(pad < 0 for pad in before + after):
        data = bb.emit(_crop(data, static_shape(data, attrs), before, after), f"{name}_crop")
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


WINDOW_CONVERTERS: dict[str, Converter] = {
    "AveragePool": _pool("avg"),
    "Conv": _conv,
    "MaxPool": _pool("max"),
    "Pad": _pad,
}
