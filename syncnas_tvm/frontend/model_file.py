"""Reading an ONNX file: everything that can be wrong with it before its operators matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model

from syncnas_tvm.errors import ModelError

MIN_OPSET, MAX_OPSET = 11, 23

_LONGEST = 300  # characters of a checker's complaint: its reason and the node come first


def load_model(path: Path) -> onnx.ModelProto:
    """The checked model with its external data in memory and its local functions inlined.

    Raises :class:`ModelError` for anything that is not a whole, valid ONNX model of a supported
    operator set.
    """
    model = _parse(path)
    _load_external_data(path, model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    check_opset(path, model)
    return model


def check_model(path: Path, model: onnx.ModelProto) -> None:
    """Run ``onnx.checker``; its complaint becomes a one-line :class:`ModelError`."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        complaint = " ".join(str(error).replace("==> Context:", "").split())[:_LONGEST].rstrip(".")
        raise ModelError(f"{path}: not a valid ONNX model: {complaint}: export it again") from error


def check_opset(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`ModelError` where the default operator set is not a supported version."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    version = versions[0] if versions else 1
    if not MIN_OPSET <= version <= MAX_OPSET:
        raise ModelError(
            f"{path}: the model uses opset {version}, supported are {MIN_OPSET} to {MAX_OPSET}: "
            "export it again with an opset in that range (17 is a good choice)"
        )


def first_line(error: BaseException) -> str:
    """The essence of a library's error: its first line that says something, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:;")


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelError(f"{path}: no such file: give the path of an ONNX model")
    if not path.is_file():
        raise ModelError(f"{path}: is a directory, not a file: give the path of an ONNX model")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty: export or download it again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError; the package has no type stubs
        # Every exporter writes the IR version (field 1, a varint) first.
        if data[0] == 0x08:
            raise ModelError(
                f"{path}: the file is truncated or damaged: export or download it again"
            ) from error
        raise ModelError(f"{path}: not an ONNX model: give a file in ONNX format") from error
    if not model.ir_version or not model.HasField("graph"):
        raise ModelError(f"{path}: not an ONNX model: give a file in ONNX format")
    if not model.graph.node:
        raise ModelError(f"{path}: the model has no operators: there is nothing to compile")
    return model


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Bring external tensors in; the files are looked for beside the model."""
    missing: dict[str, None] = {}
    for tensor in external_tensors(model):
        info = ExternalDataInfo(tensor)
        file = path.parent / info.location
        if not file.is_file():
            missing[info.location] = None
        elif file.stat().st_size < (info.offset or 0) + (info.length or 0):
            raise ModelError(
                f"{path}: external data file '{info.location}' is truncated: it ends before the "
                f"values of '{tensor.name}'; copy or download it again"
            )
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise ModelError(
            f"{path}: external data missing: {names} must lie in {path.parent.resolve()}: "
            "copy it there"
        )
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ModelError(f"{path}: external data cannot be read: {first_line(error)}") from error


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants of the main graph whose values are in another file."""
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.t.data_location == onnx.TensorProto.EXTERNAL:
                yield attribute.t
