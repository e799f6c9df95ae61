"""Own conversions of the ONNX operators that TVM's importer lowers too early or not at all.

Clip and Tile would become opaque ``call_tir`` kernels, n-ary Max, Min, Sum and Mean a stack and
a reduction, Split a tuple. Those that slide a window are in ``window_converters``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
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
from syncnas_tvm.frontend.window_converters import WINDOW_CONVERTERS
from syncnas_tvm.passes._dataflow import const, constant, dtype_of


def _clip(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    data, given = inputs[0], [attrs.get("min"), attrs.get("max")]
    for index in (0, 1):
        bound = optional(inputs, index + 1)
        if bound is not None:
            value = constant(bound)
            if value is None:
                raise ModelError(
                    f"node '{node_of(attrs)}' (Clip) has a bound that is computed at run time: "
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


def _gemm(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    lhs, rhs = inputs[0], inputs[1]
    bias = optional(inputs, 2)
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
    values, columns = constant(bias), static_shape(product, attrs)[-1]
    if values is not None:
        values = values * np.float32(beta)
        per_row = values.ndim == 2 and values.shape[0] > 1
        bias = const(values if per_row else np.broadcast_to(values.reshape(-1), (columns,)))
    elif beta != 1.0:
        bias = bb.emit(relax.op.multiply(bias, const(beta)), f"{name}_beta")
    return bb.emit(relax.op.add(bb.emit(product, name), bias), f"{name}_bias")


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
    shape = static_shape(data, attrs)
    axis = int(attrs.get("axis", 0)) % len(shape)
    sizes = attrs.get("split")
    given = optional(inputs, 1)
    if given is not None:
        sizes = int_values(given, "split", attrs)
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
    return relax.op.tile(inputs[0], int_values(inputs[1], "repeats", attrs))


def _first(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    if int(attrs["tvm_custom"]["num_outputs"]) > 1:
        raise ModelError(
            f"node '{node_of(attrs)}' (Dropout) has its mask as an output: "
            "export the model in evaluation mode"
        )
    return inputs[0]


def _gather(bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str) -> relax.Expr:
    """Negative indices count from the end."""
    data = inputs[0]
    shape = static_shape(data, attrs)
    axis = int(attrs.get("axis", 0)) % len(shape)
    indices = constant(inputs[1])
    if indices is None:
        return relax.op.take(data, inputs[1], axis, mode="wrap")
    if indices.size and not -shape[axis] <= indices.min() <= indices.max() < shape[axis]:
        raise ModelError(
            f"node '{node_of(attrs)}' (Gather) takes indices {indices.min()} to {indices.max()} of "
            f"a dimension of {shape[axis]}: export the model again"
        )
    return relax.op.take(data, const(indices % shape[axis], "int64"), axis)


def _hard_sigmoid(
    bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str
) -> relax.Expr:
    alpha, beta = float(attrs.get("alpha", 0.2)), float(attrs.get("beta", 0.5))
    scaled = bb.emit(relax.op.multiply(inputs[0], const(alpha)), f"{name}_scale")
    shifted = bb.emit(relax.op.add(scaled, const(beta)), f"{name}_shift")
    return relax.op.clip(shifted, 0.0, 1.0)


def _hard_swish(
    bb: relax.BlockBuilder, inputs: Inputs, attrs: dict[str, Any], name: str
) -> relax.Expr:
    gate = _hard_sigmoid(bb, inputs, {"alpha": 1 / 6, "beta": 0.5}, name)
    return relax.op.multiply(inputs[0], bb.emit(gate, f"{name}_gate"))


CONVERTERS: dict[str, Converter] = {
    **WINDOW_CONVERTERS,
    "Clip": _clip,
    "Dropout": _first,
    "Gather": _gather,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Max": _pairwise(relax.op.maximum),
    "Mean": _mean,
    "Min": _pairwise(relax.op.minimum),
    "Split": _split,
    "Sum": _pairwise(relax.op.add),
    "Tile": _tile,
}
