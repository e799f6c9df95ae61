"""The measured timeline of one run: host events from the VM, GPU events from the OpenCL queue."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import tvm_ffi
from tvm import relax

from syncnas_tvm.passes.insert_transfers import TRANSFER
from syncnas_tvm.timeline import Span, SpanKind, Timeline

# Calls of builtins (allocation, shape checks) are part of what the host thread does in between.
_KERNEL_SUFFIX = "_kernel"


@dataclass
class _Event:
    name: str
    region: str
    start_ns: int
    end_ns: int = 0


@dataclass
class _Recorder:
    """Follows the VM: which lane function it is in, and when each call begins and ends."""

    events: list[_Event] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    def __call__(
        self, _function: object, name: str, before: bool, _result: object, *_: object
    ) -> int:
        now = time.perf_counter_ns()
        tracked = name == TRANSFER or name.startswith(("cpu_", "gpu_"))
        if tracked and before:
            self.events.append(_Event(name, self.functions[-1] if self.functions else "", now))
        elif tracked:
            self.events[-1].end_ns = now
        elif before and _is_lane_function(name):
            self.functions.append(name)
        elif _is_lane_function(name) and self.functions:
            self.functions.pop()
        return 0


def _is_lane_function(name: str) -> bool:
    return name.startswith("r") and name.split("_")[0][1:].isdecimal()


def measured_timeline(
    vm: relax.VirtualMachine, run: Callable[[], object], uses_gpu: bool
) -> Timeline:
    """Run once under instruments. Times start at 0 where the run starts, on the host's clock."""
    recorder = _Recorder()
    vm.set_instrument(recorder)
    if uses_gpu:
        tvm_ffi.get_global_func("syncnas.opencl.profile_start")()
    start_ns = time.perf_counter_ns()
    try:
        run()
    finally:
        vm.set_instrument(lambda *_: 0)
        queue = tvm_ffi.get_global_func("syncnas.opencl.profile_stop")() if uses_gpu else "[]"
    return Timeline(tuple(_spans(recorder.events, json.loads(queue), start_ns)), "measured")


def device_timeline(profile: str) -> Timeline:
    """The timeline of a profile that the runner in the device library made (runtime/runner/).

    All its times are of the device's own clock, so nothing of the network is in them.
    """
    data = json.loads(profile)
    events = [
        _Event(item["name"], item["region"], item["start_ns"], item["end_ns"])
        for item in data["events"]
    ]
    spans = _spans(events, data["queue"], data["start_ns"])
    return Timeline(tuple(spans), "measured")


def _spans(events: list[_Event], queue: list[dict[str, object]], start_ns: int) -> list[Span]:
    def span(lane: str, event: _Event, kind: SpanKind, begin_ns: int, end_ns: int) -> Span:
        region = event.region.split("_")[0]
        us = ((begin_ns - start_ns) / 1e3, (end_ns - start_ns) / 1e3)
        return Span(lane, event.name, *us, kind, region)  # type: ignore[arg-type]

    spans = []
    for event in events:
        if event.name == TRANSFER:
            spans.append(span("host", event, "transfer", event.start_ns, event.end_ns))
        elif event.name.startswith("cpu_"):
            kind: SpanKind = "sync" if "_join" in event.region else "kernel"
            spans.append(span("cpu", event, kind, event.start_ns, event.end_ns))
        else:
            spans.append(span("host", event, "enqueue", event.start_ns, event.end_ns))
    enqueued = iter([event for event in events if event.name.startswith("gpu_")])
    current = None
    for item in queue:
        name = str(item["name"])
        if name in ("read", "write", "copy"):
            continue
        # One function may launch several kernels: name_kernel, name_kernel_1 and so on.
        if current is None or name.endswith(_KERNEL_SUFFIX):
            current = next(enqueued, current)
        if current is not None:
            kind = "sync" if "_join" in current.region else "kernel"
            begin_ns, end_ns = int(item["start_ns"]), int(item["end_ns"])  # type: ignore[call-overload]
            spans.append(span("gpu", current, kind, begin_ns, end_ns))
    return sorted(spans, key=lambda s: s.start_us)
