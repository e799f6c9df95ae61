"""Writes a torch module as ONNX: one input ``input``, one output ``output``, one file."""

from __future__ import annotations

import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import ModelError, error_line

Exporter = Literal["torchscript", "dynamo"]
OPSETS: dict[Exporter, int] = {"torchscript": 17, "dynamo": 18}


def export_onnx(
    model: nn.Module,
    path: str | Path,
    size: int = 224,
    *,
    inputs: int = 3,
    exporter: Exporter = "torchscript",
) -> Path:
    """Export ``model``, in evaluation mode, for images of shape (1, inputs, size, size).

    Batch norms are folded into the convolutions by the exporter. What was at ``path`` is replaced
    only when the export has succeeded. Raises ModelError where torch cannot export the module.
    """
    path = Path(path)
    training = model.training
    device = next(model.parameters()).device
    example = torch.zeros(1, inputs, size, size, device=device)
    try:
        with file_written_aside(path) as aside:
            export_quietly(model.eval(), example, aside, exporter, OPSETS[exporter])
    except OSError:
        raise
    except Exception as error:
        raise ModelError(
            f"torch cannot export the model to ONNX: {error_line(error)}; --debug shows where"
        ) from error
    finally:
        model.train(training)
    return path


def export_quietly(
    model: nn.Module, example: Tensor, path: Path, exporter: Exporter, opset: int, **options: Any
) -> None:
    """torch's export into one file, without what it prints; ``options`` are more of torch's."""
    if exporter == "dynamo":
        options["external_data"] = False
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=["input"],
                output_names=["output"],
                opset_version=opset,
                dynamo=exporter == "dynamo",
                **options,
            )
    finally:
        logger.setLevel(level)
