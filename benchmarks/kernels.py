"""Every distinct kernel of the networks on one lane: GFLOP/s and share of the core's peak.

    PYTHONPATH=tests python benchmarks/kernels.py [--lane gpu] [--json FILE] [--all] [NETWORK ...]

The peak is measured with a loop of fused multiply-adds on registers, in the same process. Kernels
are timed as a network runs them: one call of each in turn, so with cold weights; with ``--warm`` each
in a loop of its own, so that its weights stay in the caches. GFLOP/s count what a direct convolution
does, so that Winograd's go above the peak. Both lanes have one core here (PoCL is the GPU lane's
OpenCL). ``lost`` is the time, summed over the networks' kernels, that would be saved if every kernel of
the kind ran at the peak.

``--onnxruntime`` compares the depthwise convolutions, activations included, with onnxruntime's instead: both
as whole networks run them on one thread, by the profilers of both.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("POCL_AFFINITY", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("SYNCNAS_CPU_THREADS", "1")

import numpy as np
import tvm
import zoo
from networks import network_parser
from ort_kernels import RUNS, convolution_times, key
from tvm import s_tir, te, tirx

from syncnas_tvm.candidates import decision_space
from syncnas_tvm.comparison import Comparison
from syncnas_tvm.compiler import compile_onnx
from syncnas_tvm.cost_models import kind_of
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.region_work import groups_in
from syncnas_tvm.kernel_timer import KernelTime, time_kernels
from syncnas_tvm.passes.rule import rule
from syncnas_tvm.runtime.executable import load
from syncnas_tvm.runtime.lanes import on_cpu_lane, reserve_cores
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.work import Kernel, Lane

CHAINS, STEPS = 12, 100_000  # independent accumulators, multiply-adds of each


def peak_gflops(target: Target) -> float:
    """GFLOP/s of fused multiply-adds on registers, the best of 20 runs."""
    lanes = target.vector_lanes
    x = te.placeholder((CHAINS, lanes), "float32", name="x")
    step = te.reduce_axis((0, STEPS), "step")
    # Each step multiplies and adds: acc = acc * x + x, which no compiler can shorten.
    multiply_add = te.comm_reducer(
        lambda a, b: a * b + b, lambda dtype: tirx.const(0.0, dtype), name="multiply_add"
    )
    acc = te.compute((CHAINS, lanes), lambda c, v: multiply_add(x[c, v], axis=[step]), name="acc")
    sch = s_tir.Schedule(te.create_prim_func([x, acc]).with_attr("global_symbol", "main"))
    block = sch.get_sblock("acc")
    sch.cache_write(block, 0, "local")
    chain, lane, loop = sch.get_loops(block)
    sch.reorder(loop, chain, lane)
    sch.vectorize(lane)
    sch.unroll(chain)
    init = sch.decompose_reduction(block, loop)
    sch.vectorize(sch.get_loops(init)[-1])
    run = tvm.compile(sch.mod, target=target.cpu_target())["main"]
    data = tvm.runtime.tensor(np.full((CHAINS, lanes), 0.5, "float32"))
    out = tvm.runtime.tensor(np.zeros((CHAINS, lanes), "float32"))
    best = min(_seconds(run, data, out) for _ in range(20))
    return 2 * CHAINS * lanes * STEPS / best / 1e9


def _seconds(run: object, *args: object) -> float:
    start = time.perf_counter()
    run(*args)  # type: ignore[operator]
    return time.perf_counter() - start


def groups_of_network(model: Path, lane: Lane, target: Target) -> list[Group]:
    """All kernels of a network that is placed on one lane, repeated ones too."""
    graph = RegionGraph(import_onnx(model, None).mod, target.channel_step)
    found = []
    for here in decision_space(graph).candidates:
        for candidate in here:
            decision = candidate.decision
            if decision.rule == "Place" and decision.param("lane") == lane:
                region = graph.region(decision.regions[0])
                mod = rule("Place").rewrite(graph.mod, graph, region, decision)
                found += groups_in(mod, region.name)
    return found


def describe(kernel: Kernel) -> str:
    """Shapes, attributes and epilogue in one line."""
    attrs = dict(kernel.attrs)
    shapes = " ".join("x".join(map(str, shape)) for shape in kernel.shapes)
    strides = attrs.get("strides", "")
    return f"{kernel.op} {shapes} {strides} {'+'.join(e.op for e in kernel.epilogue)}"


def kind(kernel: Kernel) -> str:
    """The kernel's kind; a convolution of one pixel reads each weight once, so memory is its limit."""
    found = kind_of(kernel)
    return "one pixel" if found == "pointwise" and kernel.out_shape[2:] == (1, 1) else found


def row_of(t: KernelTime, counts: dict[str, Counter[Kernel]], peak: float) -> dict[str, object]:
    gflops = t.kernel.flops / t.latency_us / 1e3
    return {
        "kind": kind(t.kernel),
        "kernel": describe(t.kernel),
        "latency_us": t.latency_us,
        "noise_us": t.noise_us,
        "gflops": gflops,
        "share": gflops / peak,
        "uses": {name: count[t.kernel] for name, count in counts.items() if count[t.kernel]},
    }


def times_in_network(model: Path, target: Target) -> dict[Kernel, float]:
    """Microseconds of each kernel of a network on the CPU lane, in whole runs: medians."""
    with tempfile.TemporaryDirectory() as scratch:
        result = compile_onnx(model, target, scratch, lanes="cpu", timed=False, verify=False)
        executable = load(scratch)
        inputs = executable.random_inputs()
        runs = [executable.profile(inputs) for _ in range(RUNS)]
    found: dict[Kernel, list[float]] = defaultdict(list)
    for row in Comparison.of(result.choice.timeline, runs).rows:
        if row.kernel is not None:
            found[row.kernel].append(row.measured_us)
    return {kernel: statistics.median(times) for kernel, times in found.items()}


def against_onnxruntime(names: list[str], target: Target) -> str:
    """A table of the depthwise convolutions, ours beside onnxruntime's, the slowest ratio first."""
    rows = []
    for name in names:
        model = zoo.export(name, size=224)
        theirs = convolution_times(model)
        for kernel, us in times_in_network(model, target).items():
            their_us = theirs.get(key(kernel.out_shape[1], kernel.shapes[1], kernel.out_shape))
            if kernel.is_depthwise and their_us is not None:
                rows.append((their_us / us, name, describe(kernel), us, their_us))
    rows.sort()
    ratios = [row[0] for row in rows]
    lines = [
        f"{len(rows)} depthwise convolutions, median {statistics.median(ratios):.2f} times as fast, "
        f"{sum(ratio < 1 for ratio in ratios)} slower than onnxruntime's.",
        "",
        "| network | kernel | us | onnxruntime us | times as fast |",
        "|---" * 5 + "|",
    ]
    for ratio, name, text, us, their_us in rows:
        lines.append(f"| {name} | {text} | {us:.1f} | {their_us:.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def _spent(rows: list[dict], names: list[str]) -> tuple[float, float]:
    """Microseconds that the networks spend in the kernels, and how much of it is lost."""
    each = [r["latency_us"] * sum(r["uses"].get(name, 0) for name in names) for r in rows]
    lost = sum(us * (1 - row["share"]) for us, row in zip(each, rows, strict=True))
    return sum(each), lost


def summary(rows: list[dict], names: list[str], peak: float) -> str:
    """One line per kind over all networks, then one per network."""
    lines = [
        f"Peak {peak:.1f} GFLOP/s.",
        "",
        "| kind | kernels | min share | median share | max share | us in networks | lost us |",
        "|---" * 7 + "|",
    ]
    kinds = sorted({row["kind"] for row in rows})
    for group in kinds:
        ours = [row for row in rows if row["kind"] == group]
        shares = sorted(row["share"] for row in ours)
        total, lost = _spent(ours, names)
        cells = (shares[0], statistics.median(shares), shares[-1])
        lines.append(
            f"| {group} | {len(ours)} | {' | '.join(f'{s:.2f}' for s in cells)} | {total:.0f} | "
            f"{lost:.0f} |"
        )
    lines += ["", "Microseconds in each network, by kind (of which lost).", ""]
    lines += [f"| network | {' | '.join(kinds)} | all |", "|---" * (len(kinds) + 2) + "|"]
    for name in names:
        cells, whole = [], 0.0
        for group in kinds:
            total, lost = _spent([row for row in rows if row["kind"] == group], [name])
            whole += total
            cells.append(f"{total:.0f} ({lost:.0f})")
        lines.append(f"| {name} | {' | '.join(cells)} | {whole:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--lane", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--kind", default="", help="only kernels of this kind")
    parser.add_argument("--warm", action="store_true", help="each kernel in a loop of its own")
    parser.add_argument(
        "--all", action="store_true", help="print every kernel, slowest share first"
    )
    parser.add_argument(
        "--onnxruntime", action="store_true", help="compare the depthwise kernels instead"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    target = load_target("host")
    reserve_cores(target)
    if options.onnxruntime:
        print(against_onnxruntime(options.network, target))
        return
    counts: dict[str, Counter[Kernel]] = {}
    groups: dict[Kernel, Group] = {}
    for name in options.network:
        found = groups_of_network(zoo.export(name, size=224), options.lane, target)
        found = [g for g in found if options.kind in kind(g.kernel)]
        counts[name] = Counter(g.kernel for g in found)
        groups.update({g.kernel: g for g in found})
    with on_cpu_lane(target.cpus):
        peak = peak_gflops(target)
    batches = [[group] for group in groups.values()] if options.warm else [list(groups.values())]
    times = [t for batch in batches for t in time_kernels(batch, target, time.monotonic() + 3600)]
    rows = [row_of(t, counts, peak) for t in times]
    if options.json:
        options.json.write_text(json.dumps({"peak_gflops": peak, "kernels": rows}, indent=2))
    print(summary(rows, options.network, peak))
    if options.all:
        print("\n| kernel | us | GFLOP/s | share | uses |\n|---|---|---|---|---|")
        for row in sorted(rows, key=lambda r: (r["kind"], r["share"])):
            print(
                f"| {row['kernel']} | {row['latency_us']:.1f} | {row['gflops']:.1f} | "
                f"{row['share']:.2f} | {sum(row['uses'].values())} |"
            )


if __name__ == "__main__":
    main()
