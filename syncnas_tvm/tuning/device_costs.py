"""What the lanes of a device cost beside their kernels, measured on it with small models.

The models are compiled and run as any other, and their timelines on the device's own clock are read:
what is measured is what a compiled model pays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from syncnas_tvm.artifact import read_manifest
from syncnas_tvm.compiler import compile_onnx
from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.errors import DeviceError
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.runtime.remote import RemoteExecutable
from syncnas_tvm.runtime.tracker import request_device
from syncnas_tvm.targets import Target, TargetCosts, Transfer
from syncnas_tvm.timeline import Timeline
from syncnas_tvm.work import LANES, Lane

ROUNDS = 15
CHANNELS, SMALL, LARGE = 16, 8, 128
"""A feature map of 4 KB and one of 1 MB: as a network's smallest, and a bit above its largest."""
BLOCKS = 3
LEAST_BANDWIDTH_US = 1e-6
_ON_BOTH = Plan((Decision.of("r0", "Branches", gpu_branches="0", lane="cpu"),))
Load = Callable[[Path], RemoteExecutable]


def measured_device_costs(target: Target, load: Load) -> TargetCosts:
    """Transfers in both directions, enqueueing and contention on the device that ``load`` loads to.

    Raises DeviceError where the device fails, and whatever :func:`compile_onnx` raises.
    """
    with tempfile.TemporaryDirectory(prefix="syncnas-tune-") as scratch:
        bench = _Bench(target, load, Path(scratch))
        small, large = (bench.copies(size) for size in (SMALL, LARGE))
        fork = {form: bench.fork(form) for form in (*LANES, "both")}
    to_gpu, to_cpu = (
        _transfer(*(float(np.median([run[way] for run in runs])) for runs in (small, large)))
        for way in (0, 1)
    )
    enqueued = [
        span.us
        for run in fork["gpu"]
        for span in run.spans
        if span.lane == "host" and span.name.startswith("gpu_")
    ]
    return replace(
        target.costs,
        to_gpu=to_gpu,
        to_cpu=to_cpu,
        enqueue_us=float(np.median(enqueued)),
        cpu_contention=contention(fork["cpu"], fork["both"], "cpu"),
        gpu_contention=contention(fork["gpu"], fork["both"], "gpu"),
    )


def device_loader(address: tuple[str, int], key: str, timeout_s: float) -> Load:
    """Loads compiled folders on a device that a tracker knows, those for this machine's kind too."""

    def load(folder: Path) -> RemoteExecutable:
        session = request_device(address, key, timeout_s)
        return RemoteExecutable(folder, read_manifest(folder), session, timeout_s)

    return load


def contention(alone: Sequence[Timeline], both: Sequence[Timeline], lane: Lane) -> float:
    """How many times longer ``lane``'s kernels take while the other lane is busy too, from 1 to 2.

    ``alone`` are runs in which the lane runs twice what it runs in ``both``, and the other one nothing.
    While both are busy the lane's work goes on at 1 / contention of its speed. Runs in which they never
    are say nothing; without others it is 1.
    """
    alone_us = float(np.median([_kernels_us(run, lane) for run in alone])) / 2
    found = []
    for run in both:
        overlap_us = run.overlap_us
        if overlap_us <= 0:
            continue
        done_us = alone_us - (_kernels_us(run, lane) - overlap_us)
        found.append(overlap_us / done_us if done_us > 0 else 2.0)
    return float(np.clip(np.median(found or [1.0]), 1.0, 2.0))


def gaps(run: Timeline) -> tuple[float, float]:
    """Microseconds from what the CPU made to the first GPU kernel, and from the last one back.

    That is how long a value is on its way, however the runtime moves it. Raises DeviceError where the GPU
    ran no kernel.
    """
    kernels, cpu = run.lane_spans("gpu"), run.lane_spans("cpu")
    if not kernels:
        raise DeviceError("the device's profile has no kernel of its GPU; see its OpenCL driver")
    first, last = kernels[0].start_us, max(span.end_us for span in kernels)
    made = [span.end_us for span in cpu if span.end_us <= first]
    read = [span.start_us for span in cpu if span.start_us >= last]
    host = [span for span in run.spans if span.lane == "host"]
    start = max(made) if made else min(span.start_us for span in host)
    end = min(read) if read else max(span.end_us for span in host)
    return first - start, max(0.0, end - last)


class _Bench:
    def __init__(self, target: Target, load: Load, scratch: Path) -> None:
        self._target, self._load, self._scratch = target, load, scratch

    def copies(self, size: int) -> list[tuple[float, float]]:
        """Microseconds of the copies to the GPU and back of a ``[1, CHANNELS, size, size]`` map."""
        model = _saved(self._scratch / f"copy{size}.onnx", _one_operator(size))
        return [gaps(run) for run in self._runs(model, "gpu")]

    def fork(self, form: str) -> list[Timeline]:
        """Two equal branches: both on the lane ``form``, or one on each lane."""
        model = _saved(self._scratch / "fork.onnx", _two_branches())
        return self._runs(model, form)

    def _runs(self, model: Path, form: str) -> list[Timeline]:
        folder = model.with_name(f"{model.stem}-{form}")
        how = {"lanes": form} if form in LANES else {"plan": _ON_BOTH}
        compile_onnx(
            model,
            self._target,
            folder,
            verify=False,
            timed=False,
            cost_model=cost_model_of(self._target),
            **how,
        )
        loaded = self._load(folder)
        inputs = list(loaded.random_inputs().values())
        loaded.time(*inputs, repeat=3)
        return [loaded.profile(*inputs) for _ in range(ROUNDS)]


def _kernels_us(run: Timeline, lane: Lane) -> float:
    return sum(span.us for span in run.lane_spans(lane) if span.kind == "kernel")


def _transfer(small_us: float, large_us: float) -> Transfer:
    """A line through the times of a small and a large copy."""
    sizes = [CHANNELS * size * size * 4 for size in (SMALL, LARGE)]
    per_byte = max((large_us - small_us) / (sizes[1] - sizes[0]), LEAST_BANDWIDTH_US)
    return Transfer(max(0.1, small_us - sizes[0] * per_byte), 1e-3 / per_byte)


def _saved(path: Path, graph: onnx.GraphProto) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def _one_operator(size: int) -> onnx.GraphProto:
    shape = [1, CHANNELS, size, size]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy")
    return helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "copy", [x], [y])


def _two_branches() -> onnx.GraphProto:
    """Inverted residual blocks of 96 channels, expanded to 576: what the lanes run all day."""
    shape = [1, 96, 14, 14]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy")
    nodes, weights = [], []

    def conv(source: str, name: str, weight: tuple[int, ...], groups: int = 1) -> str:
        values = np.full(weight, 1 / np.prod(weight[1:]), "float32")
        weights.append(numpy_helper.from_array(values, f"{name}_w"))
        pad = weight[2] // 2
        nodes.append(
            helper.make_node(
                "Conv", [source, f"{name}_w"], [name], pads=[pad] * 4, group=groups, name=name
            )
        )
        return name

    ends = []
    for branch in ("a", "b"):
        at = "x"
        for block in range(BLOCKS):
            name = f"{branch}{block}"
            at = conv(at, f"{name}_expand", (576, 96, 1, 1))
            at = conv(at, f"{name}_depthwise", (576, 1, 3, 3), 576)
            at = conv(at, f"{name}_project", (96, 576, 1, 1))
        ends.append(at)
    nodes.append(helper.make_node("Add", ends, ["y"]))
    return helper.make_graph(nodes, "fork", [x], [y], weights)
