"""ONNX against torch, for the tests of the architecture search and its benchmark."""

from pathlib import Path

import onnxruntime
import torch
from graph_nets import relative_error

from syncnas_tvm.nas.onnx_export import export_onnx


def randomise_norms(model: torch.nn.Module) -> None:
    """Batch norms that folding wrongly would show."""
    torch.manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.7, 1.4)
                module.weight.normal_(1, 0.1)


def against_torch(model: torch.nn.Module, path: Path, size: int) -> float:
    """Export ``model``; the relative error of onnxruntime on the file at ``path``."""
    randomise_norms(model)
    export_onnx(model, path, size)
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = model.eval()(image).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["output"], {"input": image.numpy()})
    return relative_error(found, expected)
