"""Measures kernels on this machine: what the planner knows of ``host``.

Kernels are timed as a network runs them: one call of each in turn, so that the others have pushed
its weights and its code out of the nearest caches, and its inputs written just before, as the
kernel in front of it would. In a loop of its own a kernel can be a third faster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.lowering import build_kernels
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel, Lane

ROUNDS = 9
BATCH = 32


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of one call: the median of the rounds, and how far the fastest is below it."""

    kernel: Kernel
    latency_us: float
    noise_us: float


def time_kernels(
    groups: Sequence[Group],
    target: Target,
    deadline: float,
    report: Callable[[int], None] = lambda done: None,
) -> list[KernelTime]:
    """Build and time the kernels of one lane in the given order, until ``deadline``.

    ``deadline`` is a value of ``time.monotonic``; what was not reached by then is left out.
    ``report`` is told how many are done.
    """
    times: list[KernelTime] = []
    for lane in ("cpu", "gpu"):
        ours = [g for g in groups if g.kernel.lane == lane]
        # In batches: one build of all would spend the time before the first measurement.
        for start in range(0, len(ours), BATCH):
            if time.monotonic() >= deadline:
                break
            batch = ours[start : start + BATCH]
            times += _time_batch(batch, lane, target, deadline)
            report(len(times))
    return times


def _time_batch(
    groups: Sequence[Group], lane: Lane, target: Target, deadline: float
) -> Iterable[KernelTime]:
    mod = tvm.IRModule()
    for i, group in enumerate(groups):
        name = f"k{i}"
        function = group.function().with_attrs({LANE_ATTR: lane, "global_symbol": name})
        mod[name] = function
    executable, built = build_kernels(mod, target)
    device = gpu_device() if lane == "gpu" else tvm.cpu(0)
    vm = relax.VirtualMachine(executable, [tvm.cpu(0), device])
    with on_cpu_lane(target.cpus):
        calls = []
        for i, group in enumerate(groups):
            calls.append(_Call(vm[f"k{i}"], built[f"k{i}"], len(group.function().params), device))
            calls[-1].once()  # compiles a GPU kernel
            if time.monotonic() >= deadline:
                break
        once = _gpu_us if lane == "gpu" else _cpu_us
        rounds = [[once(call) for call in calls] for _ in range(ROUNDS)]
    samples = np.array(rounds)
    medians, fastest = np.median(samples, axis=0), samples.min(axis=0)
    return [
        KernelTime(group.kernel, float(median), float(median - least))
        for group, median, least in zip(groups, medians, fastest, strict=False)
    ]


class _Call:
    """A kernel and tensors for it; ``inputs`` of them are values, the others its weights."""

    def __init__(
        self, run: tvm_ffi.Function, function: relax.Function, inputs: int, device: Any
    ) -> None:
        self.run = run
        rng = np.random.default_rng(0)
        arrays = [
            rng.random(tuple(int(n) for n in p.ty.shape), "float32").astype(str(p.ty.dtype))
            for p in function.params
        ]
        self.args = [tvm.runtime.tensor(array, device) for array in arrays]
        self.values = list(zip(self.args[:inputs], arrays, strict=False))

    def once(self) -> None:
        """Write the inputs and run the kernel."""
        for tensor, array in self.values:
            tensor.copyfrom(array)
        self.run(*self.args)


def _cpu_us(call: _Call) -> float:
    for tensor, array in call.values:
        tensor.copyfrom(array)
    start = time.perf_counter()
    call.run(*call.args)
    return (time.perf_counter() - start) * 1e6


def _gpu_us(call: _Call) -> float:
    """Time on the device, from its own events: the queue's and the host's part is not the kernel's."""
    tvm_ffi.get_global_func("syncnas.opencl.profile_start")()
    call.once()
    events = json.loads(tvm_ffi.get_global_func("syncnas.opencl.profile_stop")())
    kernels = [e for e in events if e["name"] not in ("read", "write", "copy")]
    return sum(e["end_ns"] - e["start_ns"] for e in kernels) / 1e3
