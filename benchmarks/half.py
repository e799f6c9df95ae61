"""What half precision on the GPU lane does to a network's answers and to its latency.

    PYTHONPATH=tests python benchmarks/half.py [--lanes gpu | --arm] [NETWORK ...]

Prints a Markdown table: for each network and type of the GPU lane the latency (float32 and float16
take turns), and over all pictures that scikit-image ships the largest relative error against
onnxruntime and on how many of them the class with the largest output is onnxruntime's. Only
EfficientNet-Lite0 has trained weights. With ``--arm``, the answers alone of ARM's CPU lane with halves:
its kernels, compiled for this machine, where LLVM emulates the arithmetic.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import tvm
import zoo
from networks import network_parser, no_measurements, print_table
from skimage import color, data, io, transform, util
from tvm import relax

import syncnas_tvm
from syncnas_tvm import compiler
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT_TYPES, LaneTypes
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import load_target
from syncnas_tvm.verify import deviation

SIZE = 224
PICTURES = (".png", ".jpg", ".gif", ".tif")
HEADER = ("network", "GPU lane", "ms (min)", "ms (median)", "max relative error", "same class")
ROUNDS, RUNS_A_ROUND = 6, 5


def pictures(size: int = SIZE) -> Iterator[tuple[str, np.ndarray]]:
    """Name and network input (``[1, 3, size, size]``) of each picture file of scikit-image."""
    for path in sorted(Path(data.__file__).parent.iterdir()):
        if path.suffix in PICTURES:
            yield path.stem, as_input(io.imread(path), size)


def as_input(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a picture (of several, the first), scaled; mean 127/255, std 128/255."""
    colours = picture.shape[-1] in (3, 4)
    while picture.ndim > (3 if colours else 2):
        picture = picture[0]
    floats = util.img_as_float(picture[..., :3] if colours else color.gray2rgb(picture))
    side = min(floats.shape[:2])
    top, left = ((extent - side) // 2 for extent in floats.shape[:2])
    square = floats[top : top + side, left : left + side]
    small = transform.resize(square, (size, size), anti_aliasing=True)
    return ((small - 127 / 255) / (128 / 255)).astype("float32").transpose(2, 0, 1)[None]


def rows(name: str, lanes: str) -> Iterator[tuple[object, ...]]:
    """Compile one network with both types and compare."""
    model = zoo.export(name, size=SIZE)
    session = import_onnx(model).original.session()
    inputs = {picture: {"input": array} for picture, array in pictures()}
    expected = {p: {"output": session.run(["output"], i)[0]} for p, i in inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        executables = {}
        for dtype in FLOAT_TYPES:
            where = Path(folder) / dtype
            compiler.compile_onnx(model, output=where, lanes=lanes, gpu_dtype=dtype, timed=False)
            executables[dtype] = syncnas_tvm.load(where)
        one = next(iter(inputs.values()))
        us: dict[str, list[float]] = {dtype: [] for dtype in executables}
        for _ in range(ROUNDS):
            for dtype, run in executables.items():
                us[dtype] += run.time(one, repeat=RUNS_A_ROUND, warmup=1)
        for dtype, run in executables.items():
            found = {picture: run(i) for picture, i in inputs.items()}
            worst = max(deviation(found[p], expected[p]).max_rel for p in inputs)
            same = [p for p in inputs if _class(found[p]) == _class(expected[p])]
            times = f"{min(us[dtype]) / 1e3:.2f}", f"{np.median(us[dtype]) / 1e3:.2f}"
            yield name, dtype, *times, f"{worst:.1e}", f"{len(same)} of {len(inputs)}"


def emulated(name: str) -> tuple[object, ...]:
    """What the kernels of an ARM CPU lane with halves answer."""
    target = replace(load_target("host"), vector_lanes=4, channel_step=8)
    imported = import_onnx(zoo.export(name, size=SIZE))
    session = imported.original.session()
    graph = RegionGraph(imported.mod, target.channel_step)
    plan = Plan(tuple(Decision.of(region, "Place", lane="cpu") for region in graph.names))
    types = LaneTypes("float16", "float16")
    executable = build(apply_plan(graph, plan), target, types)
    main = relax.VirtualMachine(executable, [tvm.cpu(0), tvm.cpu(0)])["main"]
    worst, same, total = 0.0, 0, 0
    for _, array in pictures():
        expected = {"output": session.run(["output"], {"input": array})[0]}
        found = {"output": main(tvm.runtime.tensor(array)).numpy()}
        worst = max(worst, deviation(found, expected).max_rel)
        same += _class(found) == _class(expected)
        total += 1
    return name, "(ARM CPU float16)", "-", "-", f"{worst:.1e}", f"{same} of {total}"


def _class(outputs: dict[str, np.ndarray]) -> int:
    return int(outputs["output"].argmax())


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--lanes", choices=("gpu", "both"), default="gpu", help="lanes used")
    parser.add_argument("--arm", action="store_true", help="the emulated CPU lane of an ARM target")
    options = parser.parse_args()
    with no_measurements():
        for_one = (lambda n: [emulated(n)]) if options.arm else (lambda n: rows(n, options.lanes))
        print_table(HEADER, (row for name in options.network for row in for_one(name)))


if __name__ == "__main__":
    main()
