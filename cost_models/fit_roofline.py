"""Fits the numbers of ``targets/*.toml`` to measured data and prints them as TOML.

``python -m syncnas_tvm.cost_models.fit_roofline DATA`` where DATA holds ``tophub/`` (AutoTVM's
public TopHub logs) and ``transfers/`` (copies between CPU and GPU on phones).

For each lane, the efficiency of a kind of operator is the one that minimises the mean absolute
log error of ``max(flops / (peak * efficiency), bytes / bandwidth) + launch`` over the log's float32
kernels. Bandwidth and launch are given: the error is flat in them (a grid over 1.6 to 30 GB/s
and 5 to 100 us moves it by 1 to 4 points). Winograd kernels are left out: this compiler has none.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from syncnas_tvm.cost_models.base import kind_of
from syncnas_tvm.work import Kernel, Lane

# name, log, text in the row's target, lane, float32 GFLOP/s, GB/s, launch in us
LANES: tuple[tuple[str, str, str, Lane, float, float, float], ...] = (
    ("RK3399, 2x A72", "arm_cpu_v0.08.log", "model=rk3399", "cpu", 28.8, 8.0, 5.0),
    ("Snapdragon 835, 4x A73", "arm_cpu_v0.08.log", "model=snapdragon835", "cpu", 78.4, 8.0, 5.0),
    ("Kirin 970, 4x A73", "arm_cpu_v0.08.log", "model=kirin970", "cpu", 75.5, 8.0, 5.0),
    ("RK3399, Mali-T860 MP4", "mali_v0.06.log", "rk3399", "gpu", 108.8, 5.0, 50.0),
    ("Snapdragon 8 Gen 1, Adreno 730", "adreno_v0.02.log", "adreno", "gpu", 1675.0, 20.0, 20.0),
)
LEFT_OUT = ("winograd", "transpose", "cuda")
SHARES = np.geomspace(0.005, 1, 300)


def kernel_of(template: str, args: list[Any], lane: Lane, dtype: str = "float32") -> Kernel | None:
    """The ``dtype`` kernel of one log row; None for another type, Winograd and CUDA templates."""
    if args[0][-1] != dtype or any(name in template for name in LEFT_OUT):
        return None
    data, weight = tuple(args[0][1]), tuple(args[1][1])
    if template.startswith("dense"):
        return Kernel("matmul", (data, weight[::-1], (data[0], weight[0])), dtype, lane)
    stride, pad = args[2], args[3]
    rows, cols = (
        (data[2 + i] + pad[i] + pad[(i + 2) % len(pad)] - weight[2 + i]) // stride[i] + 1
        for i in (0, 1)
    )
    channels = data[1] if template.startswith("depthwise") else weight[0]
    return Kernel("nn.conv2d", (data, weight, (data[0], channels, rows, cols)), dtype, lane)


def read_log(path: Path, wanted: str, lane: Lane, dtype: str = "float32") -> dict[Kernel, float]:
    """Fastest microseconds of each distinct kernel of the log's rows for ``wanted`` on ``lane``."""
    best: dict[Kernel, float] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("{"):
            continue
        row = json.loads(line)
        target, template, args = row["input"][:3]
        ours = wanted in target and target.startswith("opencl") == (lane == "gpu")
        kernel = kernel_of(template, args, lane, dtype) if ours else None
        if kernel:
            seconds = float(np.mean(row["result"][0]))
            best[kernel] = min(seconds * 1e6, best.get(kernel, np.inf))
    return best


def fit(rows: dict[Kernel, float], gflops: float, gbytes_per_s: float, launch_us: float) -> None:
    """Print the efficiency of each kind of kernel in ``rows``, with its mean error."""
    kinds: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in rows:
        kinds[kind_of(kernel)].append(kernel)
    for kind, kernels in sorted(kinds.items()):
        flops, size, us = (
            np.array(values, dtype=np.float64)[:, None]
            for values in zip(*((k.flops, k.bytes_moved, rows[k]) for k in kernels), strict=True)
        )
        roof = np.maximum(flops / (gflops * 1e3 * SHARES), size / (gbytes_per_s * 1e3))
        errors = np.abs(np.log((roof + launch_us) / us)).mean(axis=0)
        best = int(errors.argmin())
        off = 100 * (np.exp(errors[best]) - 1)
        print(f"{kind} = {SHARES[best]:.3f}  # {len(kernels)} kernels, {off:.0f} % mean error")


def fit_transfers(path: Path, limit: float = 1e6) -> None:
    """Theil-Sen line per phone and direction over tensors of at most ``limit`` bytes."""
    points = defaultdict(list)
    for row in csv.DictReader(path.open()):
        if float(row["fp32_bytes"]) <= limit:
            for way in ("cpu_to_gpu_us", "gpu_to_cpu_us"):
                point = (float(row["fp32_bytes"]), float(row[way]))
                points[row["phone"], row["framework"], way].append(point)
    for key, line in points.items():
        pairs = [(b[0] - a[0], b[1] - a[1]) for i, a in enumerate(line) for b in line[i + 1 :]]
        slope = median(dy / dx for dx, dy in pairs if abs(dx) > 1e4)
        latency = median(y - slope * x for x, y in line)
        name, speed = " ".join(key), 1e-3 / slope
        print(f"# {name}: {len(line)} rows, {latency:.0f} us + bytes at {speed:.2f} GB/s")


def main(folder: Path) -> None:
    """Print every lane's numbers."""
    for name, log, wanted, lane, *roof in LANES:
        print(f"# {name}: {roof[0]} GFLOP/s, {roof[1]} GB/s, launch {roof[2]} us")
        fit(read_log(folder / "tophub" / log, wanted, lane), *roof)
    fit_transfers(folder / "transfers" / "cpu_gpu_transfers.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
