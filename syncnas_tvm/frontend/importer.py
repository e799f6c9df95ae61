"""``import_onnx``: the steps from a file to a module, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from syncnas_tvm.errors import ModelError, SyncNASError
from syncnas_tvm.frontend.input_shapes import fix_shapes, model_inputs
from syncnas_tvm.frontend.model_file import check_model, first_line, load_model
from syncnas_tvm.frontend.operators import (
    reject_quantised,
    reject_types,
    reject_unknown,
    reject_unsupported,
)
from syncnas_tvm.frontend.slimming import slim

if TYPE_CHECKING:
    import onnxruntime
    import tvm


@dataclass(frozen=True)
class TensorSpec:
    """An input or an output: its ONNX name, static shape and numpy type name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class OriginalModel:
    """The model as the user gave it, run by onnxruntime: what results are checked against."""

    path: Path
    outputs: tuple[str, ...]

    def session(self, threads: int | None = None) -> onnxruntime.InferenceSession:
        """An onnxruntime session of the file on the CPU; ``threads`` limits it, where given.

        Raises :class:`~syncnas_tvm.errors.ModelError` where onnxruntime does not load the file.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:
            raise ModelError(
                f"{self.path}: onnxruntime cannot load the model: {first_line(error)}: "
                "it cannot be verified against the original"
            ) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, for one set of inputs by name."""
        results = self.session().run(list(self.outputs), dict(feeds))
        return dict(zip(self.outputs, results, strict=True))


@dataclass(frozen=True)
class ImportedModel:
    """A model in canonical form (see :mod:`syncnas_tvm.frontend.canonical`)."""

    mod: tvm.IRModule = field(repr=False)
    """One function ``main``; its parameters are ``inputs``, in order."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    proto: onnx.ModelProto = field(repr=False)
    """The checked model after constant folding, with static shapes."""
    path: Path
    original: OriginalModel
    node_names: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The ONNX node behind each binding, by the name of the binding's variable."""


def import_onnx(
    path: str | Path, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> ImportedModel:
    """Read, check, import and normalise an ONNX model.

    ``input_shapes`` gives dynamic inputs their shape; an open first dimension is 1 without it.
    Only float32 models of opset 11 to 23 are taken. Raises
    :class:`~syncnas_tvm.errors.ModelError` for a model that cannot be used and
    :class:`~syncnas_tvm.errors.InputError` for shapes that do not fit it.
    """
    path = Path(path)
    try:
        model = _prepare(path, input_shapes)
    except SyncNASError:
        raise
    except Exception as error:  # for example names that are no text
        raise ModelError(
            f"{path}: the file is damaged or not a valid ONNX model: {first_line(error)}: "
            "export or download it again"
        ) from error
    return _convert(path, model)


def _prepare(path: Path, input_shapes: Mapping[str, tuple[int, ...]] | None) -> onnx.ModelProto:
    """A model that is whole, static, folded, and made of operators that can be converted."""
    model = load_model(path)
    reject_quantised(path, model)
    reject_unknown(path, model)
    reject_types(path, model)
    fix_shapes(path, model, input_shapes)
    check_model(path, model)  # after the shapes: to the checker an input without one is an error
    model = slim(path, model)
    reject_unsupported(path, model)
    reject_types(path, model)
    return model


def normalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Bring ``main`` into the canonical form of :mod:`syncnas_tvm.frontend.canonical`.

    Raises :class:`~syncnas_tvm.errors.ModelError` where ``main`` is not one dataflow block.
    """
    from syncnas_tvm.frontend.canonical import pipeline
    from syncnas_tvm.passes._dataflow import main_block

    main_block(mod)  # here, because an exception that crosses TVM's pass runner loses its type
    return pipeline()(mod)


def _convert(path: Path, model: onnx.ModelProto) -> ImportedModel:
    # TVM takes seconds to import: a bad file should not have to wait for it.
    from syncnas_tvm.frontend.checks import check_static, result_types
    from syncnas_tvm.frontend.names import name_nodes, trace_names
    from syncnas_tvm.frontend.relax_importer import to_relax

    name_nodes(model)
    try:
        mod, converted = to_relax(model)
        mod = normalize(mod)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:
        raise ModelError(
            f"{path}: the model cannot be converted: {first_line(error)}: "
            "please report it with the model"
        ) from error
    node_names = trace_names(mod, converted)
    check_static(path, mod, node_names)
    inputs = tuple(
        TensorSpec(value.name, *_spec(param))
        for value, param in zip(model_inputs(model), mod["main"].params, strict=True)
    )
    outputs = tuple(
        TensorSpec(value.name, shape, dtype)
        for value, (shape, dtype) in zip(model.graph.output, result_types(mod), strict=True)
    )
    _fix_outputs(model, outputs)
    names = tuple(spec.name for spec in outputs)
    return ImportedModel(mod, inputs, outputs, model, path, OriginalModel(path, names), node_names)


def _spec(param: tvm.relax.Var) -> tuple[tuple[int, ...], str]:
    from syncnas_tvm.passes._dataflow import dtype_of, shape_of

    return shape_of(param) or (), dtype_of(param)


def _fix_outputs(model: onnx.ModelProto, outputs: tuple[TensorSpec, ...]) -> None:
    for value, spec in zip(model.graph.output, outputs, strict=True):
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for extent in spec.shape:
            dims.add().dim_value = extent
