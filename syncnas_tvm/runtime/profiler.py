"""The measured timeline of one run: host events from the runner, GPU events from the OpenCL queue."""

from __future__ import annotations

import json
from dataclasses import dataclass

from syncnas_tvm.timeline import RECEIVED, Span, SpanKind, Timeline, direction

TRANSFERS = ("cpu to gpu", "gpu to cpu", f"{direction('gpu')}{RECEIVED}")
HAND_OVER = f"enqueue {direction('gpu')}"
"""Begins to move rows that are received later."""
WAIT = "wait"
COPIES = ("read", "write", "copy", "unmap")
"""The queue's commands that are no kernels, as its records name them."""
_KERNEL_SUFFIX = "_kernel"


@dataclass(frozen=True)
class _Event:
    name: str
    region: str
    start_ns: int
    end_ns: int


def measured_timeline(profile: str) -> Timeline:
    """The timeline of a profile that the runner in the native library made (runtime/runner/).

    All its times are of the device's own clock, so nothing of a network is in them.
    """
    data = json.loads(profile)
    events = [
        _Event(item["name"], item["region"], item["start_ns"], item["end_ns"])
        for item in data["events"]
    ]
    return Timeline(tuple(_spans(events, data["queue"], data["start_ns"])), "measured")


def _spans(events: list[_Event], queue: list[dict[str, object]], start_ns: int) -> list[Span]:
    def span(lane: str, event: _Event, kind: SpanKind, begin_ns: int, end_ns: int) -> Span:
        region = event.region.split("_")[0]
        us = ((begin_ns - start_ns) / 1e3, (end_ns - start_ns) / 1e3)
        return Span(lane, event.name, *us, kind, region)  # type: ignore[arg-type]

    spans = []
    for event in events:
        if event.name in TRANSFERS:
            spans.append(span("host", event, "transfer", event.start_ns, event.end_ns))
        elif event.name == HAND_OVER:
            spans.append(span("host", event, "sync", event.start_ns, event.end_ns))
        elif event.name == WAIT:
            spans.append(span("host", event, "wait", event.start_ns, event.end_ns))
        elif event.name.startswith("cpu_"):
            kind: SpanKind = "sync" if "_join" in event.region else "kernel"
            spans.append(span("cpu", event, kind, event.start_ns, event.end_ns))
        else:
            spans.append(span("host", event, "enqueue", event.start_ns, event.end_ns))
    enqueued = iter([event for event in events if event.name.startswith("gpu_")])
    current = None
    for item in queue:
        name = str(item["name"])
        if name in COPIES:
            continue
        # One function may launch several kernels: name_kernel, name_kernel_1 and so on.
        if current is None or name.endswith(_KERNEL_SUFFIX):
            current = next(enqueued, current)
        if current is not None:
            kind = "sync" if "_join" in current.region else "kernel"
            begin_ns, end_ns = int(item["start_ns"]), int(item["end_ns"])  # type: ignore[call-overload]
            spans.append(span("gpu", current, kind, begin_ns, end_ns))
    return sorted(spans, key=lambda s: s.start_us)
