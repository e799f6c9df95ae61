"""Every network of SyncNAS's zoo: counts, ONNX against torch, compiled for host and rk3399.

    PYTHONPATH=tests python benchmarks/nas_zoo.py [network ...] [--size 64]

Counts are of images of 224 x 224. Kernels are not measured on ``host``: what is checked is that every
network exports, compiles and gives onnxruntime's outputs, not how fast it is. Ratios are relative
errors, max |a - b| / max |b|.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from nas_onnx import against_torch
from networks import no_measurements

from syncnas_tvm import compile_onnx
from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.model import build


def main() -> None:
    """Print a line per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(ZOO))
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    print(
        f"{'network':20}{'parameters':>12}{'Mmacs':>8}{'onnx':>9}{'host':>9}{'rk3399':>8}{'s':>6}"
    )
    # Nothing is measured: the plan is the roofline's.
    with no_measurements(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in options.networks:
            started = time.monotonic()
            model = build(network)
            counts = count(model)
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
