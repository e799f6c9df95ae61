"""Which operators and element types a model may use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from syncnas_tvm.errors import ModelError
from syncnas_tvm.frontend.input_shapes import model_inputs

_DEFAULT_DOMAINS = ("", "ai.onnx")
_QUANTISED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "MatMulInteger16",
    "QuantizeLinear",
}
# Constant folding removes most of these; what is left has no place in one dataflow block.
_CONTROL_FLOW = {"If", "Loop", "Scan"}
_NOT_TENSORS = ("Sequence", "Optional", "ConcatFromSequence", "SplitToSequence", "SequenceMap")
_SHOWN = 12  # node names in a message; a line that nobody reads to its end helps nobody


def reject_quantised(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`ModelError` for a model with int8 arithmetic."""
    nodes = [n for n in model.graph.node if n.op_type in _QUANTISED or "QLinear" in n.op_type]
    if nodes:
        kinds = ", ".join(sorted({node.op_type for node in nodes}))
        raise ModelError(
            f"{path}: the model is quantised ({len(nodes)} nodes: {kinds}): give the float32 model"
        )


def reject_unknown(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`ModelError` for operators that ONNX does not define, listing all of them.

    This comes before the checker, which would name only the first.
    """
    if any(_unknown(node) for node in model.graph.node):
        _raise_unsupported(
            path,
            (
                node
                for node in model.graph.node
                if _unknown(node)
                or (node.op_type not in _CONTROL_FLOW and not _convertible(node.op_type))
            ),
        )


def reject_unsupported(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`ModelError` for what the importer cannot convert, listing all of it."""
    _raise_unsupported(path, (n for n in model.graph.node if not _convertible(n.op_type)))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and _attribute(node, "training_mode"):
            raise ModelError(
                f"{path}: batch norm '{node.name}' is in training mode: "
                "export the model in evaluation mode (model.eval() in PyTorch)"
            )


def reject_types(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`ModelError` for inputs or weights in half or double precision."""
    types = {value.name: value.type.tensor_type.elem_type for value in model_inputs(model)}
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for kind, entries in (("input", types), ("weight", weights)):
        for name, number in entries.items():
            dtype = onnx.TensorProto.DataType.Name(number)
            if dtype in ("FLOAT16", "BFLOAT16", "DOUBLE") or dtype.startswith("FLOAT8"):
                raise ModelError(
                    f"{path}: {kind} '{name}' is {dtype.lower()}, only float32 models are "
                    "supported: export the model in float32"
                )


def _unknown(node: onnx.NodeProto) -> bool:
    return node.domain not in _DEFAULT_DOMAINS or not onnx.defs.has(node.op_type)


def _convertible(op_type: str) -> bool:
    from syncnas_tvm.frontend.relax_importer import convertible_operators

    if op_type in _CONTROL_FLOW or op_type.startswith(_NOT_TENSORS):
        return False
    return op_type in convertible_operators()


def _raise_unsupported(path: Path, nodes: Iterable[onnx.NodeProto]) -> None:
    found: dict[str, list[str]] = {}
    for node in nodes:
        kind = node.op_type if node.domain in _DEFAULT_DOMAINS else f"{node.domain}.{node.op_type}"
        found.setdefault(kind, []).append(node.name or (node.output[0] if node.output else "?"))
    if not found:
        return
    parts = []
    for kind, names in sorted(found.items()):
        more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts.append(f"{kind} ({', '.join(names[:_SHOWN])}{more})")
    raise ModelError(
        f"{path}: unsupported operators: {'; '.join(parts)}: "
        "export the model without them, or cut it before them"
    )


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)
