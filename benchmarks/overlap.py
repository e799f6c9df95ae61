"""Do the lanes overlap? An MBConv block cut in half against each half alone.

    python benchmarks/overlap.py [--json]

Each lane has one core of this machine. ``both`` is the whole block, transfers and sum included;
``cpu half`` and ``gpu half`` are its lane functions run alone with their transfers. Overlap is
real if ``both`` takes little more than the slower half, and not the sum of the halves. Runs of the
three are interleaved; the ratio is of medians, and of minima.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("POCL_AFFINITY", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("SYNCNAS_CPU_THREADS", "1")

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.graph.calls import calls_of
from syncnas_tvm.graph.rebuild import emit_function, fresh_params
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import ApplyPlan
from syncnas_tvm.passes.lift_gpu_weights import WEIGHTS_FUNCTION
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane, reserve_cores
from syncnas_tvm.targets import load_target

# (channels, expansion, rows and columns, kernel): blocks of MobileNetV2 and EfficientNet.
BLOCKS = ((24, 6, 56, 3), (32, 6, 28, 3), (40, 6, 28, 5), (96, 6, 28, 3))
LIMIT = 1.15


def block(channels: int, expansion: int, size: int, kernel: int) -> tvm.IRModule:
    """A residual MBConv block with random weights, NCHW."""
    rng = np.random.default_rng(0)
    hidden = channels * expansion
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, channels, size, size), "float32"))

    def conv(data: relax.Expr, out: int, into: int, k: int, groups: int = 1) -> relax.Expr:
        weight = rng.standard_normal((out, into, k, k)).astype("float32") / (into * k * k) ** 0.5
        bias = relax.const(rng.standard_normal((1, out, 1, 1)).astype("float32"))
        y = relax.op.nn.conv2d(data, relax.const(weight), padding=k // 2, groups=groups)
        return builder.emit(relax.op.add(builder.emit(y), bias))

    def body() -> list[relax.Expr]:
        y = builder.emit(relax.op.clip(conv(x, hidden, channels, 1), 0.0, 6.0))
        y = builder.emit(relax.op.clip(conv(y, hidden, 1, kernel, hidden), 0.0, 6.0))
        return [builder.emit(relax.op.add(conv(y, channels, hidden, 1), x))]

    emit_function(builder, "main", [x], body, {"num_input": 1}, private=False)
    return builder.get()


def half(mod: tvm.IRModule, lane: str) -> tvm.IRModule:
    """The applied plan's module with a ``main`` that calls one lane's function alone."""
    main = calls_of(mod, mod["main"])
    (call,) = [c for c in main.calls if c.lane == lane]
    builder = relax.BlockBuilder()
    params = fresh_params(main.params)

    def body() -> list[relax.Expr]:
        return [builder.emit(relax.Call(call.callee, params))]

    emit_function(builder, "main", params, body, {"num_input": 1}, private=False)
    result = builder.get()
    result[call.callee] = call.function
    return result


def measure(shape: tuple[int, int, int, int], rounds: int) -> dict[str, object]:
    """Times in microseconds of the block and its halves, and how long the lanes overlapped."""
    target = load_target("host")
    reserve_cores(target)
    graph = RegionGraph(block(*shape), target.channel_step)
    decision = Decision.of(graph.names[0], "ChannelSplit", gpu_share=0.5)
    mod = ApplyPlan(graph, Plan((decision,)))(graph.mod)
    forms = {"both": mod, "cpu half": half(mod, "cpu"), "gpu half": half(mod, "gpu")}
    runs = {}
    for name, form in forms.items():
        executable = build(form, target)
        vm = relax.VirtualMachine(executable, [tvm.cpu(0), gpu_device()])
        runs[name] = (vm, list(vm[WEIGHTS_FUNCTION]()))
    channels, _, size, _ = shape
    data = np.random.default_rng(1).standard_normal((1, channels, size, size)).astype("float32")
    x = tvm.runtime.tensor(data)
    times: dict[str, list[float]] = {name: [] for name in runs}
    with on_cpu_lane(target.cpus):
        for _ in range(rounds):
            for name, (vm, weights) in runs.items():
                main = vm["main"]
                start = time.perf_counter()
                main(x, *weights)
                times[name].append((time.perf_counter() - start) * 1e6)

    def ratio(pick: object) -> float:
        us = {name: pick(samples[5:]) for name, samples in times.items()}  # type: ignore[operator]
        return us["both"] / max(us["cpu half"], us["gpu half"])

    medians = {name: statistics.median(samples[5:]) for name, samples in times.items()}
    return {
        "block": f"{shape[0]}-{shape[1]}x-{shape[0]}@{shape[2]} k{shape[3]}",
        **{f"{name}_us": us for name, us in medians.items()},
        "ratio": ratio(statistics.median),
        "ratio_of_minima": ratio(min),
    }


def main() -> None:
    """Measure all blocks and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60, help="interleaved runs of each form")
    options = parser.parse_args()
    rows = [measure(shape, options.rounds) for shape in BLOCKS]
    if options.json:
        print(json.dumps({"limit": LIMIT, "blocks": rows}, indent=2))
        return
    print("| block | CPU half us | GPU half us | both us | both / slower half | of minima |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['block']} | {row['cpu half_us']:.0f} | {row['gpu half_us']:.0f} | "
            f"{row['both_us']:.0f} | {row['ratio']:.2f} | {row['ratio_of_minima']:.2f} |"
        )


if __name__ == "__main__":
    main()
