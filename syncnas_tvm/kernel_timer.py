"""Measures kernels on this machine: what the planner knows of ``host``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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

REPEATS = 5
# A CPU kernel is run for at least so long per repeat, so that the clock's resolution does not show.
MIN_REPEAT_US = 300.0


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of one kernel: the fastest repeat, and the spread of the repeats."""

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
        for start in range(0, len(ours), 32):
            if time.monotonic() >= deadline:
                break
            batch = ours[start : start + 32]
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
    times = []
    with on_cpu_lane(target.cpus):
        for i, group in enumerate(groups):
            if time.monotonic() >= deadline:
                break
            rng = np.random.default_rng(0)
            args = [
                tvm.runtime.tensor(rng.standard_normal(shape).astype(dtype), device)
                for shape, dtype in _signature(built[f"k{i}"])
            ]
            samples = (_time_gpu if lane == "gpu" else _time_cpu)(vm, f"k{i}", args)
            best = min(samples)
            times.append(KernelTime(group.kernel, best, float(np.median(samples)) - best))
    return times


def _signature(function: relax.Function) -> list[tuple[tuple[int, ...], str]]:
    return [(tuple(int(n) for n in p.ty.shape), str(p.ty.dtype)) for p in function.params]


def _time_cpu(vm: relax.VirtualMachine, name: str, args: list[tvm.runtime.Tensor]) -> list[float]:
    vm[name](*args)
    vm.set_input(name, *args)
    run = vm["invoke_stateful"]
    start = time.perf_counter()
    run(name)
    once_us = (time.perf_counter() - start) * 1e6
    number = max(1, int(MIN_REPEAT_US / max(once_us, 1.0)))
    result = vm.time_evaluator("invoke_stateful", tvm.cpu(0), number=number, repeat=REPEATS)(name)
    return [seconds * 1e6 for seconds in result.results]


def _time_gpu(vm: relax.VirtualMachine, name: str, args: list[tvm.runtime.Tensor]) -> list[float]:
    """Time on the device, from its own events: the queue's and the host's part is not the kernel's."""
    function = vm[name]
    function(*args)
    gpu_device().sync()
    start = tvm_ffi.get_global_func("syncnas.opencl.profile_start")
    stop = tvm_ffi.get_global_func("syncnas.opencl.profile_stop")
    samples = []
    for _ in range(REPEATS):
        start()
        function(*args)
        events = [e for e in json.loads(stop()) if e["name"] not in ("read", "write", "copy")]
        samples.append(sum(e["end_ns"] - e["start_ns"] for e in events) / 1e3)
    return samples
