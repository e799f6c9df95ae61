"""What a converter from ONNX is, and what converters share.

A converter takes the block builder, the inputs (missing ones are None or not there), the node's
attributes and the identifier for the node's result, from which it makes names for intermediate
values; it returns an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from syncnas_tvm.errors import ModelError
from syncnas_tvm.passes._dataflow import constant, shape_of

Inputs = Sequence[relax.Expr]
Converter = Callable[[relax.BlockBuilder, Inputs, dict[str, Any], str], relax.Expr]


def optional(inputs: Inputs, index: int) -> relax.Expr | None:
    """An input that the node may leave out."""
    return inputs[index] if len(inputs) > index else None


def node_of(attrs: dict[str, Any]) -> str:
    """The name of the ONNX node, for messages."""
    return str(attrs["tvm_custom"]["name"])


def static_shape(expr: relax.Expr, attrs: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor; raises :class:`ModelError` where it is not static."""
    shape = shape_of(expr)
    if shape is None:
        raise ModelError(
            f"node '{node_of(attrs)}' works on a tensor whose shape is only known at run time: "
            "export the model with static shapes"
        )
    return shape


def int_values(expr: relax.Expr, what: str, attrs: dict[str, Any]) -> list[int]:
    """The entries of a constant; raises :class:`ModelError` where it is computed."""
    value = constant(expr)
    if value is None:
        raise ModelError(
            f"node '{node_of(attrs)}' has {what} that are computed at run time: "
            "export the model with static shapes"
        )
    return [int(entry) for entry in value.reshape(-1)]
