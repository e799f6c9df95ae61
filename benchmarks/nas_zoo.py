"""Every network of SyncNAS's zoo: counts, ONNX against torch, compiled for host and rk3399.

    python benchmarks/nas_zoo.py [network ...] [--size 64]

Counts are of images of 224 x 224. Kernels are not measured on ``host``: what is checked is that every
network exports, compiles and gives onnxruntime's outputs, not how fast it is. Ratios are relative
errors, max |a - b| / max |b|.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from syncnas_tvm import compile_onnx, compiler
from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.model import build
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
    """Relative error of onnxruntime on the exported file."""
    export_onnx(model, path, size)
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = model.eval()(image).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["output"], {"input": image.numpy()})
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> None:
    """Print a line per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(ZOO))
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    # Nothing is measured: the plan is the roofline's.
    compiler.measured_table = functools.partial(compiler.measured_table, seconds=0.0)
    print(
        f"{'network':20}{'parameters':>12}{'Mmacs':>8}{'onnx':>9}{'host':>9}{'rk3399':>8}{'s':>6}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("SYNCNAS_CACHE_DIR", name)
        for network in options.networks:
            started = time.monotonic()
            model = build(network)
            counts = count(model)
            randomise_norms(model)
            error = against_torch(model, folder / "m.onnx", options.size)
            host = compile_onnx(folder / "m.onnx", timed=False).deviation
            compile_onnx(folder / "m.onnx", target="rk3399", output=folder / network)
            print(
                f"{network:20}{counts.parameters:12,}{counts.macs / 1e6:8.1f}{error:9.1e}"
                f"{host.max_rel:9.1e}{'built':>8}{time.monotonic() - started:6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
