"""Tuned kernels against untuned ones: the rules' own choices beside what tuning made of them.

    PYTHONPATH=tests python benchmarks/tuning.py [--lane gpu] [--trials N] [--kernels N]
        [--records FOLDER] [--json FILE] [--all] [NETWORK ...]

The ``--kernels`` heaviest distinct kernels of the networks (MobileNetV2 by default) are tuned, or what
is missing of it in ``--records``. Then the network's kernels are built twice, with the records and
without, as ``compile`` builds them, and called in turn: in every round each kernel untuned and tuned
right behind one another, the first of them alternating. A kernel's ratio is the median over the rounds of
untuned over tuned time; where the rule's own choice stays, both are the same kernel, and the ratio says
what the measurement is worth. The networks on this lane alone follow, runs interleaved too.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("POCL_AFFINITY", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("SYNCNAS_CPU_THREADS", "1")

import numpy as np
import tvm
import zoo
from kernels import describe, groups_of_network
from networks import network_parser
from tvm import relax

import syncnas_tvm
from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.kernel_timer import Call, cpu_us, gpu_us
from syncnas_tvm.lowering import build_kernels
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane, reserve_cores
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.tuning.tune import tune_kernels
from syncnas_tvm.work import Lane


def calls_of(
    groups: list[Group], lane: Lane, target: Target, records: TuningRecords | None
) -> list[Call]:
    """The kernels, built with the records or without, and run once."""
    mod, functions = tvm.IRModule(), [group.function() for group in groups]
    for i, function in enumerate(functions):
        mod[f"k{i}"] = function.with_attrs({LANE_ATTR: lane, "global_symbol": f"k{i}"})
    executable, built = build_kernels(mod, target, records=records)
    device = gpu_device() if lane == "gpu" else tvm.cpu(0)
    vm = relax.VirtualMachine(executable, [tvm.cpu(0), device])
    calls = [
        Call(vm[f"k{i}"], built[f"k{i}"], len(function.params), device)
        for i, function in enumerate(functions)
    ]
    for call in calls:
        call.run()
    return calls


def paired_us(pairs: list[tuple[Call, Call]], lane: Lane, rounds: int) -> np.ndarray:
    """Microseconds, ``[round, kernel, untuned or tuned]``."""
    once = gpu_us if lane == "gpu" else cpu_us
    samples = np.zeros((rounds, len(pairs), 2))
    for turn in range(rounds):
        for i, pair in enumerate(pairs):
            for which in (0, 1) if (turn + i) % 2 else (1, 0):
                samples[turn, i, which] = once(pair[which])
    return samples


def network_us(model: Path, lane: Lane, records: Path, rounds: int) -> tuple[float, float, float]:
    """Median microseconds of the network on one lane, untuned and tuned, and their paired ratio."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = []
        for name, where in (("untuned", None), ("tuned", records)):
            out = Path(folder) / name
            syncnas_tvm.compile_onnx(
                model, output=out, lanes=lane, timed=False, tuning_records=where
            )
            loaded.append(syncnas_tvm.load(out))
        inputs = loaded[0].random_inputs()
        times = np.zeros((rounds, 2))
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                times[turn, which] = min(loaded[which].time(inputs, repeat=3, warmup=1))
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    return float(np.median(times[:, 0])), float(np.median(times[:, 1])), ratio


def main() -> None:
    parser = network_parser(__doc__)
    parser.set_defaults(network=["mobilenet_v2"])
    parser.add_argument("--lane", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--trials", type=int, default=32, help="tilings a kernel")
    parser.add_argument("--kernels", type=int, default=1000, help="tune the heaviest so many")
    parser.add_argument("--rounds", type=int, default=61, help="pairs of each kernel")
    parser.add_argument("--records", type=Path, metavar="FOLDER", help="goes on with these records")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--all", action="store_true", help="print every kernel")
    options = parser.parse_args()
    target = load_target("host")
    reserve_cores(target)
    lane: Lane = options.lane
    models = {name: zoo.export(name, size=224) for name in options.network}
    found = {}
    for model in models.values():
        for group in groups_of_network(model, lane, target):
            found.setdefault(group.kernel, group)
    groups = sorted(found.values(), key=lambda g: -g.kernel.flops)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.records or Path(scratch)
        tuned = tune_kernels(
            groups[: options.kernels],
            target,
            folder,
            options.trials,
            report=lambda text: print(text, flush=True),
        )
        records = TuningRecords(folder, target)
        refined = {t.kernel for t in tuned if t.tiling is not None}
        ours = [g for g in groups if g.kernel in {t.kernel for t in tuned}]
        with on_cpu_lane(target.cpus):
            untuned = calls_of(ours, lane, target, None)
            pairs = list(zip(untuned, calls_of(ours, lane, target, records), strict=True))
            samples = paired_us(pairs, lane, options.rounds)
        networks = {
            name: network_us(model, lane, folder, options.rounds // 2)
            for name, model in models.items()
        }
    ratios = np.median(samples[:, :, 0] / samples[:, :, 1], axis=0)
    middle = np.median(samples, axis=0)
    rows = [
        {
            "kernel": describe(group.kernel),
            "refined": group.kernel in refined,
            "untuned_us": float(us[0]),
            "tuned_us": float(us[1]),
            "ratio": float(ratio),
        }
        for group, us, ratio in zip(ours, middle, ratios, strict=True)
    ]
    print(report(rows, networks))
    if options.json is not None:
        data = {"lane": lane, "trials": options.trials, "kernels": rows, "networks": networks}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.all:
        print("\n| kernel | refined | untuned us | tuned us | ratio |\n" + "|---" * 5 + "|")
        for row in sorted(rows, key=lambda row: row["ratio"]):
            print(
                f"| {row['kernel']} | {'yes' if row['refined'] else ''} | {row['untuned_us']:.1f} | "
                f"{row['tuned_us']:.1f} | {row['ratio']:.2f} |"
            )


def report(rows: list[dict], networks: dict[str, tuple[float, float, float]]) -> str:
    """Ratios untuned over tuned: above 1, tuning made it faster."""
    lines = ["| kernels | number | min | median | max |", "|---" * 5 + "|"]
    kinds = {
        "all": rows,
        "refined": [row for row in rows if row["refined"]],
        "the rule's own": [row for row in rows if not row["refined"]],
    }
    for kind, members in kinds.items():
        if members:
            ratios = [row["ratio"] for row in members]
            cells = (min(ratios), statistics.median(ratios), max(ratios))
            lines.append(f"| {kind} | {len(members)} | {' | '.join(f'{r:.3f}' for r in cells)} |")
    lines += ["", "| network | untuned us | tuned us | paired ratio |", "|---" * 4 + "|"]
    for name, (before, after, ratio) in networks.items():
        lines.append(f"| {name} | {before:.0f} | {after:.0f} | {ratio:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
