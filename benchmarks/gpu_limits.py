"""Every GPU kernel of the networks, for the mobile targets, against the targets' limits.

    PYTHONPATH=tests python benchmarks/gpu_limits.py [--target rk3399 ...] [--gpu-weights texture] [--run] [--output FILE] [NETWORK ...]

For each network, target and type of the GPU lane: how many kernels there are, and what is wrong with
them: work groups, local memory, buffers and arguments beyond the target's limits, vectors or constructs
that its OpenCL C has not, complaints of a compiler that is told to take OpenCL C 1.2 only. The plans
are the whole network on the GPU, and every region cut in two where it can be. With ``--run`` the
network is also run here with the same kernels, PoCL refusing work groups larger than the target's, and its
outputs are compared with onnxruntime's: an error above what `compile` allows is a problem too. A network
whose kernels and launches are another target's, character by character, is that target's run: it has the
same error. ``--output`` keeps the rows in a file, and those that it has are not checked again.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

os.environ.setdefault("POCL_MAX_WORK_GROUP_SIZE", "256")
os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import graph_nets
import numpy as np
import tvm
import zoo
from kernel_limits import Checked, Compiler, check, kernel_source, kernel_texts
from networks import network_parser, print_table

from syncnas_tvm.compiler import HALF_TOLERANCE, TOLERANCE, with_weights
from syncnas_tvm.frontend import ImportedModel, import_onnx
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.rule import rules
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.targets.model import WEIGHT_MEMORIES

GROUP = 256  # of these targets, and of PoCL above
TARGETS = ("rk3399", "android-mali", "android-adreno")
TYPES = {"float32": FLOAT32, "float16": LaneTypes("float32", "float16")}
TOLERANCES = {"float32": TOLERANCE, "float16": HALF_TOLERANCE}
HEADER = ("network", "target", "GPU lane", "plan", "kernels", "problems", "relative error here")
Row = tuple[str, ...]


def plans(graph: RegionGraph) -> dict[str, Plan]:
    """The network on the GPU, and all regions split by channels or rows where they can be."""

    def cut(region: Region) -> Decision:
        for rule in rules():
            if rule.name in ("ChannelSplit", "RowSplit") and rule.applies(graph, region):
                found = [d for d in rule.variants(graph, region) if len(d.regions) == 1]
                if found:
                    return found[len(found) // 2]
        return Decision.of(region.name, "Place", lane="gpu")

    return {
        "gpu": Plan(graph_nets.placed(graph, "gpu")),
        "split": Plan(tuple(map(cut, graph.regions))),
    }


def here(target: Target) -> Target:
    """The target's GPU kernels beside this machine's CPU."""
    gpu = {**target.gpu, "max_num_threads": GROUP}
    host = load_target("host")
    mixed = replace(
        host, gpu=gpu, vector_lanes=target.vector_lanes, channel_step=8, link=target.link
    )
    return with_weights(mixed, target.opencl.weights)


@dataclass
class Network:
    """One network, what onnxruntime makes of it, and the errors of runs so far."""

    name: str
    imported: ImportedModel
    runs: dict[tuple[str, str, frozenset[str]], float] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> list[np.ndarray]:
        return graph_nets.random_inputs(self.imported.mod)

    @cached_property
    def expected(self) -> list[np.ndarray]:
        feeds = {s.name: a for s, a in zip(self.imported.inputs, self.inputs, strict=True)}
        return list(self.imported.original.run(feeds).values())


def rows(
    network: Network,
    target: Target,
    compiler: Compiler,
    run: bool,
    known: set[tuple[str, ...]],
    distinct: set[str],
) -> Iterator[Row]:
    """Check one network for one target, except for the cases that are known.

    What is launched is added to ``distinct``.
    """
    graph = RegionGraph(network.imported.mod, target.channel_step)
    for plan_name, plan in plans(graph).items():
        mod = apply_plan(graph, plan)
        for dtype, types in TYPES.items():
            if (network.name, target.name, dtype, plan_name) in known:
                continue
            checked = check(mod, target, types, compiler)
            distinct |= checked.launched
            error, found = "-", checked.problems
            if run:
                key = (plan_name, dtype, checked.launched)
                if key not in network.runs:
                    value, missing = _run(mod, network, here(target), types, checked)
                    network.runs[key] = value
                    found += missing
                error = f"{network.runs[key]:.1e}"
                found += [f"error {error}"] * (network.runs[key] > TOLERANCES[dtype])
            count, problems = str(len(checked.kernels)), "; ".join(found) or "none"
            yield network.name, target.name, dtype, plan_name, count, problems, error


def _run(
    mod: tvm.IRModule, network: Network, target: Target, types: LaneTypes, checked: Checked
) -> tuple[float, list[str]]:
    """The error of a run here, and the kernels that were checked and are not in it."""
    executable = build(mod, target, types)
    found = graph_nets.run_executable(executable, graph_nets.uses_gpu(mod), network.inputs)
    pairs = zip(found, network.expected, strict=True)
    in_it = set(kernel_texts(kernel_source(executable.mod)).values())
    missing = [f"{k}: not run" for k, text in checked.kernels.items() if text not in in_it]
    return max(graph_nets.relative_error(f, e) for f, e in pairs), missing


def written(file: Path | None) -> list[Row]:
    """The rows that an earlier run has written; in a file that is not there, none."""
    if file is None or not file.exists():
        return []
    with file.open(newline="") as lines:
        return [tuple(row) for row in csv.reader(lines)][1:]


def main() -> int:
    """Print the table; 1 where there is a problem."""
    parser = network_parser(__doc__)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--gpu-weights", choices=WEIGHT_MEMORIES, default="buffer")
    parser.add_argument("--run", action="store_true", help="run the kernels here too")
    parser.add_argument("--output", type=Path, help="CSV file to keep the rows in")
    options = parser.parse_args()
    targets = [with_weights(load_target(name), options.gpu_weights) for name in options.target]
    assert all(int(target.gpu["max_threads_per_block"]) == GROUP for target in targets)
    compiler, done, distinct = Compiler(), written(options.output), set[str]()

    def table() -> Iterator[Row]:
        yield from done
        known = {row[:4] for row in done}
        for name in options.network:
            network = Network(name, import_onnx(zoo.export(name, size=224)))
            for target in targets:
                for row in rows(network, target, compiler, options.run, known, distinct):
                    done.append(row)
                    if options.output is not None:
                        write(options.output, done)
                    yield row

    print_table(HEADER, table())
    bad = sum(row[5] != "none" for row in done)
    print(f"{sum(int(row[4]) for row in done)} kernels in {len(done)} rows, {bad} with problems")
    print(f"{len(distinct)} launches of this run differ in their source or extents")
    return int(bad > 0)


def write(file: Path, table: list[Row]) -> None:
    """Replace the file at once: whoever ends this program leaves no half row."""
    new = file.with_suffix(".new")
    with new.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows([HEADER, *table])
    new.replace(file)


if __name__ == "__main__":
    sys.exit(main())
