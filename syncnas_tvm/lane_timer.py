"""Measures what the lanes of this machine cost each other and the host thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.rebuild import emit_function
from syncnas_tvm.kernel_timer import LEAST_US, Call
from syncnas_tvm.lowering import build_kernels
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane
from syncnas_tvm.targets import Target
from syncnas_tvm.work import LANES, Lane

ENQUEUED = 24
"""Kernels that are handed over in a row."""
ROUNDS = 9
BUSY_US = 6_000.0
"""For how long both lanes are kept busy in a round."""
Emit = Callable[[relax.Expr], relax.Var]
Body = Callable[[relax.Var, Emit], relax.Var]
"""Writes a function of one input with ``emit``; returns its result."""


@dataclass(frozen=True)
class LaneCosts:
    """Microseconds of the host thread per kernel that it enqueues, and how many times longer each
    lane's kernels take while the other lane is busy too (from 1 to 2)."""

    enqueue_us: float
    cpu_contention: float
    gpu_contention: float


def measured_lane_costs(target: Target) -> LaneCosts:
    """Both lanes of ``target`` on this machine, which has to have a GPU; about a second."""
    tiny = _Built(target, lambda x, emit: _chain(x, emit, ENQUEUED), (1, 16, 1, 1))
    block = _Built(target, _block, (1, 96, 14, 14))
    with on_cpu_lane(target.cpus):
        # As a compiled model does it, which prepares its launches.
        enqueue = tvm.get_global_func("syncnas.opencl.enqueue_us")
        enqueue_us = max(LEAST_US, enqueue(lambda: tiny.run("gpu"), 4 * ROUNDS))
        block.run("cpu")
        alone = {lane: _alone_us(block, lane) for lane in LANES}
        pairs = np.array([_together(block, alone) for _ in range(ROUNDS)])
    # Whatever else runs here can only make it look worse.
    cpu, gpu = np.clip(np.quantile(pairs, 0.25, axis=0), 1.0, 2.0).tolist()
    return LaneCosts(enqueue_us, cpu, gpu)


def _alone_us(built: _Built, lane: Lane) -> float:
    """One call with nothing beside it; many in a row, as they are measured together too."""
    samples = []
    for _ in range(ROUNDS):
        built.gpu.sync()
        start = time.perf_counter()
        calls = 0
        while (time.perf_counter() - start) * 1e6 < BUSY_US / 2:
            for _ in range(4):
                built.run(lane)
            built.gpu.sync()
            calls += 4
        samples.append((time.perf_counter() - start) * 1e6 / calls)
    return float(np.median(samples))


def _together(built: _Built, alone: dict[Lane, float]) -> tuple[float, float]:
    """How many times longer each lane takes beside the other.

    The GPU gets more work than the CPU: what is left of it when the CPU is done runs alone.
    """
    calls = {lane: max(2, round(BUSY_US / alone[lane])) for lane in LANES}
    calls["gpu"] += calls["gpu"] // 2
    built.gpu.sync()
    start = time.perf_counter()
    for _ in range(calls["gpu"]):
        built.run("gpu")
    enqueued = time.perf_counter()
    for _ in range(calls["cpu"]):
        built.run("cpu")
    both_end = time.perf_counter()
    built.gpu.sync()
    end = time.perf_counter()
    cpu = (both_end - enqueued) * 1e6 / (calls["cpu"] * alone["cpu"])
    shared_us = (both_end - enqueued) * 1e6
    rest_us = (end - both_end + enqueued - start) * 1e6
    work_us = calls["gpu"] * alone["gpu"] - rest_us  # what the GPU did beside the CPU
    return cpu, shared_us / work_us if work_us > 0 else 2.0


class _Built:
    """One function built for both lanes, with its tensors."""

    def __init__(
        self,
        target: Target,
        body: Body,
        shape: tuple[int, ...],
    ) -> None:
        mod = tvm.IRModule()
        for lane in LANES:
            attrs = {LANE_ATTR: lane, "global_symbol": f"{lane}_work"}
            mod[f"{lane}_work"] = _function(body, shape).with_attrs(attrs)
        executable, built = build_kernels(mod, target)
        self.gpu = gpu_device()
        vm = relax.VirtualMachine(executable, [tvm.cpu(0), self.gpu])
        self._calls: dict[Lane, Call] = {}
        for lane in LANES:
            name = f"{lane}_work"
            device = self.gpu if lane == "gpu" else tvm.cpu(0)
            self._calls[lane] = Call(vm[name], built[name], 1, device)
            self.run(lane)  # a GPU kernel is compiled the first time

    def run(self, lane: Lane) -> None:
        """Run it, or hand it to the GPU."""
        self._calls[lane].run()


def _function(
    body: Body,
    shape: tuple[int, ...],
) -> relax.Function:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    emit_function(builder, "main", [x], lambda: [body(x, builder.emit)], {}, private=False)
    return builder.get()["main"]


def _conv(x: relax.Expr, out: int, into: int, size: int = 1, groups: int = 1) -> relax.Expr:
    weight = np.full((out, into, size, size), 1.0 / (into * size * size), "float32")
    return relax.op.nn.conv2d(x, relax.const(weight), padding=size // 2, groups=groups)


def _chain(x: relax.Var, emit: Emit, count: int) -> relax.Var:
    """Convolutions of one pixel, one behind the other: next to no work."""
    for _ in range(count):
        x = emit(relax.op.nn.relu(emit(_conv(x, 16, 16))))
    return x


def _block(x: relax.Var, emit: Emit) -> relax.Var:
    """An inverted residual block of 96 channels, expanded to 576: what the lanes run all day."""
    y = emit(relax.op.nn.relu(emit(_conv(x, 576, 96))))
    y = emit(relax.op.nn.relu(emit(_conv(y, 576, 1, 3, 576))))
    return emit(_conv(y, 96, 576))
