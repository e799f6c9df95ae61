"""Measures kernels on this machine: what the planner knows of ``host``.

Kernels are timed as a network runs them: one call of each in turn, so that the others have pushed
its weights and its code out of the nearest caches, but no more of them than a network has, whose
weights the last cache may well hold. Its inputs are written just before, as the kernel in front of it
would, and so is the memory that its result goes to: a compiled model works in little memory, over and
over, so what a kernel overwrites is near. In a loop of its own a kernel can be a third faster. What the call from Python costs is measured with a kernel that does nothing, and taken off.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.graph.rebuild import emit_function
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.lowering import build_kernels
from syncnas_tvm.memory import weight_bytes
from syncnas_tvm.passes.insert_transfers import TO_TEXTURE
from syncnas_tvm.passes.lift_constants import TEXTURES_ATTR
from syncnas_tvm.runtime.lanes import GPU_DEVICE, gpu_device, on_cpu_lane
from syncnas_tvm.runtime.profiler import COPIES
from syncnas_tvm.schedule.packed_kernels import Records
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel, Lane

ROUNDS = 9
BATCH = 32
NETWORK_BYTES = 16 << 20  # of a mobile network's weights
EMPTY = "empty"
QUARTILE = 0.25  # whatever else runs on the machine only adds to a time
LEAST_US = 0.1  # nothing that is measured takes no time


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of one call: the rounds' lower quartile, and how far the fastest is below it."""

    kernel: Kernel
    latency_us: float
    noise_us: float


def time_kernels(
    groups: Sequence[Group],
    target: Target,
    deadline: float,
    report: Callable[[int], None] = lambda done: None,
    types: LaneTypes = FLOAT32,
    records: Records | None = None,
    network_bytes: int = NETWORK_BYTES,
) -> list[KernelTime]:
    """Build and time the kernels of one lane in the given order, until ``deadline``.

    ``deadline`` is a value of ``time.monotonic``; what was not reached by then is left out.
    ``report`` is told how many are done. The lanes keep their values in ``types``; kernels with a
    tuning record in ``records`` are tuned ones. ``network_bytes`` are the weights of the network that
    they are of.
    """
    times: list[KernelTime] = []
    for lane in ("cpu", "gpu"):
        for batch in _batches([g for g in groups if g.kernel.lane == lane], network_bytes):
            if time.monotonic() >= deadline:
                break
            times += _time_batch(batch, lane, target, deadline, types, records)
            report(len(times))
    return times


def _batches(groups: Sequence[Group], most_bytes: int) -> Iterable[list[Group]]:
    """``groups`` in order; the weights of a batch are ``most_bytes`` at most, or a kernel's own.

    One build of all would spend the time before the first measurement.
    """
    batch: list[Group] = []
    held = 0
    for group in groups:
        more = weight_bytes(group.kernel)
        if batch and (len(batch) == BATCH or held + more > most_bytes):
            yield batch
            batch, held = [], 0
        batch.append(group)
        held += more
    if batch:
        yield batch


def _time_batch(
    groups: Sequence[Group],
    lane: Lane,
    target: Target,
    deadline: float,
    types: LaneTypes,
    records: Records | None,
) -> Iterable[KernelTime]:
    mod = tvm.IRModule()
    functions = {f"k{i}": group.function() for i, group in enumerate(groups)}
    if lane == "cpu":
        functions[EMPTY] = _empty_function()
    for name, function in functions.items():
        mod[name] = function.with_attrs({LANE_ATTR: lane, "global_symbol": name})
    executable, built = build_kernels(mod, target, types, records)
    device = gpu_device() if lane == "gpu" else tvm.cpu(0)
    vm = relax.VirtualMachine(executable, [tvm.cpu(0), device])
    with on_cpu_lane(target.cpus):
        empty = functions.pop(EMPTY, None)
        calls = []
        for name, function in functions.items():
            calls.append(Call(vm[name], built[name], len(function.params), device))
            calls[-1].run()  # compiles a GPU kernel
            if time.monotonic() >= deadline:
                break
        if empty is not None:
            calls.append(Call(vm[EMPTY], built[EMPTY], len(empty.params), device))
        once = gpu_us if lane == "gpu" else cpu_us
        rounds = [[once(call) for call in calls] for _ in range(ROUNDS)]
        between_us = _between_us(calls) if lane == "gpu" else 0.0
    samples = np.array(rounds) + between_us
    if empty is not None:
        of_call = float(samples[:, -1].min())
        samples = np.maximum(samples[:, :-1] - of_call, LEAST_US)
    typical, fastest = np.quantile(samples, QUARTILE, axis=0), samples.min(axis=0)
    return [
        KernelTime(types.kernel(group.kernel), float(us), float(us - least))
        for group, us, least in zip(groups, typical, fastest, strict=False)
    ]


def _empty_function() -> relax.Function:
    """One vector goes in and out."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 16, 1, 1), "float32"))

    def body() -> list[relax.Expr]:
        return [builder.emit(relax.op.nn.relu(x))]

    emit_function(builder, "main", [x], body, {}, private=False)
    return builder.get()["main"]


class Timed(Protocol):
    """A kernel with its tensors."""

    def write_inputs(self) -> None:
        """Write the inputs anew, and before them what the result goes to."""

    def run(self) -> None:
        """Run the kernel, or hand it to the GPU."""


class Call:
    """A kernel and tensors for it; ``inputs`` of them are values, the others its weights."""

    def __init__(
        self, run: tvm_ffi.Function, function: relax.Function, inputs: int, device: Any
    ) -> None:
        self._run = run
        rng = np.random.default_rng(0)
        arrays = [
            rng.random(tuple(int(n) for n in p.ty.shape), "float32").astype(str(p.ty.dtype))
            for p in function.params
        ]
        textures = set(function.attrs.get(TEXTURES_ATTR, ()))
        to_texture = tvm_ffi.get_global_func(TO_TEXTURE)
        self._args = [
            to_texture(tvm.runtime.tensor(array), GPU_DEVICE)
            if number in textures
            else tvm.runtime.tensor(array, device)
            for number, array in enumerate(arrays)
        ]
        self._inputs = list(zip(self._args[:inputs], arrays, strict=False))
        self._result: Any = None

    def write_inputs(self) -> None:
        """Write the inputs anew, and before them what the result goes to."""
        for tensor in _tensors(self._result):
            _write(tensor, np.zeros(tensor.shape, str(tensor.dtype)))
        self._result = None  # back to the VM's pool: the next result goes to the same memory
        for tensor, array in self._inputs:
            _write(tensor, array)

    def run(self) -> None:
        """Run the kernel, or hand it to the GPU."""
        self._result = self._run(*self._args)


def _write(tensor: tvm.runtime.Tensor, array: np.ndarray) -> None:
    """Write ``tensor`` anew; the host's own as a kernel does, which reads no second tensor of the size.

    What a copy reads pushes a large map out of the caches: its kernel would look half as fast again.
    """
    if tensor.device.dlpack_device_type() == tvm.cpu(0).dlpack_device_type():
        np.from_dlpack(tensor)[...] = array.flat[0]
    else:
        tensor.copyfrom(array)


def _tensors(result: Any) -> list[tvm.runtime.Tensor]:
    """The tensors of what a function of the VM returned."""
    if result is None:
        return []
    return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)


def cpu_us(call: Timed) -> float:
    """Time of one call, on the host's clock."""
    call.write_inputs()
    start = time.perf_counter()
    call.run()
    return (time.perf_counter() - start) * 1e6


def gpu_us(call: Timed) -> float:
    """Time on the device, from its own events: the host's part is not the kernel's."""

    def run() -> None:
        call.write_inputs()
        call.run()

    return sum(end - start for start, end in _kernels_us(run))


def _between_us(calls: Sequence[Timed]) -> float:
    """What passes between two kernels that are both in the queue: the device's own overhead."""

    def run() -> None:
        for call in calls:
            call.run()

    kernels = _kernels_us(run)
    gaps = [start - end for (_, end), (start, _) in pairwise(kernels)]
    # Where the next one was not there in time the host is to blame, not the device.
    return max(0.0, float(np.quantile(gaps, QUARTILE))) if gaps else 0.0


def _kernels_us(run: Callable[[], object]) -> list[tuple[float, float]]:
    """When the kernels that ``run`` hands to the GPU begin and end, on the device's clock."""
    tvm_ffi.get_global_func("syncnas.opencl.profile_start")()
    run()
    events = json.loads(tvm_ffi.get_global_func("syncnas.opencl.profile_stop")())
    kernels = (e for e in events if e["name"] not in COPIES)
    return [(e["start_ns"] / 1e3, e["end_ns"] / 1e3) for e in kernels]
