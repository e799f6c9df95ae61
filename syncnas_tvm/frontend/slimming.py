"""Constant folding on the ONNX graph, before anything is converted."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx

from syncnas_tvm.errors import ModelError
from syncnas_tvm.frontend.input_shapes import model_inputs
from syncnas_tvm.frontend.model_file import first_line

# onnxslim's fusions rename nodes and would hide from our own passes what they have to handle;
# only its folding of constant and shape arithmetic is wanted.
_SKIPPED = ["graph_fusion", "subexpression_elimination", "weight_tying"]


def slim(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold shape arithmetic and constants of a model with static inputs.

    TVM's importer rejects pads and shapes that are computed, as TorchScript exports them.
    Nothing is printed; a failure is a :class:`ModelError`.
    """
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with quiet():
            slimmed = onnxslim.slim(copy, skip_optimizations=_SKIPPED)
    except Exception as error:
        raise ModelError(
            f"{path}: constants and shapes cannot be folded (onnxslim: {first_line(error)}): "
            "check that onnxruntime loads the model"
        ) from error
    _restore_inputs(model, slimmed)
    return slimmed


def _restore_inputs(model: onnx.ModelProto, slimmed: onnx.ModelProto) -> None:
    """Put back, in order, the inputs that turned out to be unused: callers still give them."""
    inputs = model_inputs(model)
    del slimmed.graph.input[:]
    slimmed.graph.input.extend(inputs)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print, warn or log away from the user's terminal."""
    log = logging.getLogger("onnxslim")
    disabled = log.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            log.disabled = True
            try:
                yield
            finally:
                log.disabled = disabled
