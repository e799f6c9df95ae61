"""How far is each network from onnxruntime, on one lane, on the other, and with everything split?

    PYTHONPATH=tests python benchmarks/exactness.py [--size 224] [NETWORK ...]

Prints a Markdown table: the networks of tests/zoo.py (random weights, but EfficientNet-Lite0), the
form, regions and how many of them run on both lanes, syncs, the largest relative error over three
inputs, and the seconds of a whole compile. Kernels are not measured: shares come from the roofline.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import zoo
from networks import network_parser, no_measurements, print_table

from syncnas_tvm import compiler

FORMS = {
    "CPU lane": {"lanes": "cpu"},
    "GPU lane": {"lanes": "gpu"},
    "all split": {"split_all": True},
}
HEADER = ("network", "form", "regions", "on both lanes", "syncs", "max relative error", "seconds")


def row(name: str, size: int, form: str) -> tuple[object, ...]:
    """Compile and verify one network in one form."""
    path = zoo.export(name, size=size)
    rng = np.random.default_rng(11)
    shape = (1, 3, size, size)
    inputs = [
        {"input": rng.uniform(-2.0, 2.0, shape).astype("float32")},
        {"input": np.full(shape, 0.5, "float32")},
    ]
    start = time.monotonic()
    result = compiler.compile_onnx(path, verify_inputs=inputs, timed=False, **FORMS[form])
    seconds = time.monotonic() - start
    both = sum(
        bool(c.work.kernels("cpu") and c.work.kernels("gpu")) for c in result.choice.candidates
    )
    error = f"{result.deviation.max_rel:.1e}"
    return name, form, len(result.graph.regions), both, result.syncs, error, f"{seconds:.0f}"


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--size", type=int, default=224, help="image size in pixels")
    options = parser.parse_args()
    with no_measurements():
        every = ((name, form) for name in options.network for form in FORMS)
        print_table(HEADER, (row(name, options.size, form) for name, form in every))


if __name__ == "__main__":
    main()
