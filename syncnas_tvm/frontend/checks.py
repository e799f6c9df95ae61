"""The last look at an imported module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import relax

from syncnas_tvm.errors import ModelError
from syncnas_tvm.passes._dataflow import dtype_of, main_block, shape_of


def check_static(path: Path, mod: tvm.IRModule, node_names: Mapping[str, str]) -> None:
    """Raise :class:`ModelError` for dynamic shapes, empty tensors and types other than float32."""
    main = mod["main"]
    for param in main.params:
        _check(path, f"input '{param.name}'", param)
    for binding in main_block(mod).bindings:
        name = binding.var.name
        if isinstance(binding.var.ty, relax.TensorType):
            _check(path, f"node '{node_names.get(name, name)}'", binding.var)


def result_types(mod: tvm.IRModule) -> list[tuple[tuple[int, ...], str]]:
    """Shape and type of each output, in order."""
    ret = mod["main"].ret_ty
    fields = ret.fields if isinstance(ret, relax.TupleType) else [ret]
    return [
        (tuple(int(extent) for extent in field.shape.values), str(field.dtype)) for field in fields
    ]


def _check(path: Path, what: str, value: relax.Var) -> None:
    shape, dtype = shape_of(value), dtype_of(value)
    if shape is None:
        raise ModelError(
            f"{path}: {what} has a shape that is only known at run time: "
            "fix the inputs with --input-shapes, or export the model with static shapes"
        )
    if 0 in shape:
        raise ModelError(
            f"{path}: {what} is a tensor without elements, {list(shape)}: "
            "check the shapes given with --input-shapes, or export the model again"
        )
    if "float" in dtype and dtype != "float32":
        raise ModelError(
            f"{path}: {what} computes in {dtype}, only float32 models are supported: "
            "export the model in float32"
        )
