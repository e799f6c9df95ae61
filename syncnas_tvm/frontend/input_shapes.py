"""The shapes of a model's inputs: what the user asks for, put into the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import onnx

from syncnas_tvm.errors import InputError, ModelError

Shapes = dict[str, tuple[int, ...]]

_ENTRY = re.compile(r"\s*(?P<name>[^\s\[\]]+?)\s*:\s*\[(?P<dims>[^\[\]]*)\]\s*,?")


def parse_input_shapes(text: str) -> Shapes:
    """Read tvmc's ``--input-shapes`` syntax: ``input:[1,3,224,224] other:[1,8]``.

    Raises :class:`InputError` for anything else, and for dimensions that are not positive.
    """
    shapes: Shapes = {}
    position = 0
    while position < len(text.rstrip()):
        match = _ENTRY.match(text, position)
        if match is None:
            raise InputError(
                f"--input-shapes: cannot read '{text[position:].strip()}': write "
                "name:[1,3,224,224], several separated by spaces"
            )
        name = match["name"]
        if name in shapes:
            raise InputError(f"--input-shapes: input '{name}' is given twice: give it once")
        shapes[name] = _dims(name, match["dims"])
        position = match.end()
    if not shapes:
        raise InputError("--input-shapes: is empty: write name:[1,3,224,224]")
    return shapes


def _dims(name: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"--input-shapes: dimensions of '{name}' are [{text}]: give positive integers"
        )
    return tuple(int(part) for part in parts)


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives: old exporters list the weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights.update(tensor.values.name for tensor in model.graph.sparse_initializer)
    return [value for value in model.graph.input if value.name not in weights]


def fix_shapes(
    path: Path, model: onnx.ModelProto, wanted: Mapping[str, tuple[int, ...]] | None
) -> None:
    """Make every input of ``model`` static, in place.

    A dimension that the model leaves open takes the value from ``wanted``, or that of the same
    symbol elsewhere, or 1 for the first dimension (the batch). Raises :class:`InputError` for
    shapes that do not fit the model, :class:`ModelError` where a dimension stays open.
    """
    inputs = {value.name: value for value in model_inputs(model)}
    wanted = dict(wanted or {})
    for name in wanted:
        if name not in inputs:
            known = ", ".join(f"'{name}'" for name in inputs) or "none"
            raise InputError(
                f"--input-shapes: {path} has no input '{name}': its inputs are {known}"
            )
    symbols: dict[str, int] = {}
    for name, shape in wanted.items():
        _apply(inputs[name], shape, symbols)
    for value in inputs.values():
        _complete(path, value, symbols)
    for value in [*model.graph.output, *model.graph.value_info]:
        _forget_symbols(value)
    # What the exporter noted about values inside may contradict the shapes that are now fixed.
    del model.graph.value_info[:]


def _apply(value: onnx.ValueInfoProto, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for extent in shape:
            tensor.shape.dim.add().dim_value = extent
        return
    dims, declared = tensor.shape.dim, describe(value)
    if len(dims) != len(shape):
        raise InputError(
            f"--input-shapes: input '{value.name}' has {len(dims)} dimensions "
            f"{declared}, got {len(shape)}: {list(shape)}"
        )
    for dim, extent in zip(dims, shape, strict=True):
        if extent < 1:
            raise InputError(
                f"--input-shapes: input '{value.name}' cannot be {list(shape)}: "
                "give positive integers"
            )
        if dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != extent:
            raise InputError(
                f"--input-shapes: input '{value.name}' is fixed to {declared} in the "
                f"model, got {list(shape)}: export the model for that shape"
            )
        if dim.dim_param:
            symbols.setdefault(dim.dim_param, extent)
        dim.dim_value = extent


def _complete(path: Path, value: onnx.ValueInfoProto, symbols: dict[str, int]) -> None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{path}: input '{value.name}' is not a tensor: it cannot be compiled")
    if not tensor.HasField("shape"):
        raise ModelError(
            f"{path}: input '{value.name}' has no shape: "
            f'give it with --input-shapes "{value.name}:[1,3,224,224]"'
        )
    shown = describe(value)
    for index, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            continue
        if dim.HasField("dim_value") and dim.dim_value == 0:
            raise ModelError(
                f"{path}: input '{value.name}' has zero elements, {shown}: "
                "give its shape with --input-shapes"
            )
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]
        elif index == 0:
            if dim.dim_param:
                symbols[dim.dim_param] = 1
            dim.dim_value = 1
        else:
            raise ModelError(
                f"{path}: dimension {index} of input '{value.name}' is dynamic, {shown}: "
                f'give its shape with --input-shapes "{value.name}:[...]"'
            )


def _forget_symbols(value: onnx.ValueInfoProto) -> None:
    """Leave a rank without extents: they follow from the inputs."""
    for dim in value.type.tensor_type.shape.dim:
        dim.Clear()


def describe(value: onnx.ValueInfoProto) -> str:
    """The declared shape for a message: ``[batch, 3, ?, 224]``."""
    dims = value.type.tensor_type.shape.dim
    return (
        "["
        + ", ".join(
            str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims
        )
        + "]"
    )
