"""Timelines in the Trace Event Format that chrome://tracing and ui.perfetto.dev show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from syncnas_tvm.timeline import Span, SpanLane, Timeline

ROWS: tuple[SpanLane, ...] = ("host", "cpu", "gpu")
ARROW = " to "


def chrome_trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """One process per timeline, one row per lane, transfers as flow arrows between the lanes.

    Times in the format are microseconds too. A transfer's name says its direction, as in
    ``cpu to gpu``; the arrow goes from the last span of the lane that it leaves to the next span
    of the lane that it goes to.
    """
    events: list[dict[str, Any]] = []
    for process, timeline in enumerate(timelines):
        events.append(_meta("process_name", process, 0, timeline.source))
        for row, lane in enumerate(ROWS):
            events.append(_meta("thread_name", process, row, lane))
        events.extend(_slice(span, process) for span in timeline.spans)
        events.extend(_arrows(timeline, process))
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _meta(what: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": row, "args": {"name": name}}


def _slice(span: Span, process: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "pid": process,
        "tid": ROWS.index(span.lane),
        "ts": span.start_us,
        "dur": span.us,
        "args": {"region": span.region},
    }


def _arrows(timeline: Timeline, process: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    rows = {lane: timeline.lane_spans(lane) for lane in ROWS}
    for number, move in enumerate(s for s in timeline.spans if s.kind == "transfer"):
        words = move.name.split(ARROW)
        if len(words) < 2 or words[0] not in ("cpu", "gpu"):
            continue
        source: SpanLane = "cpu" if words[0] == "cpu" else "gpu"
        target: SpanLane = "gpu" if words[0] == "cpu" else "cpu"
        before = [s for s in rows[source] if s.end_us <= move.end_us]
        after = [s for s in rows[target] if s.start_us >= move.start_us]
        if not before or not after:
            continue  # the model's input or output
        common = {"cat": "sync", "name": "sync", "id": f"{process}.{number}", "pid": process}
        ends = ((before[-1], "s", before[-1].end_us), (after[0], "f", after[0].start_us))
        for span, phase, time in ends:
            extra = {"bp": "e"} if phase == "f" else {}
            events.append(
                {**common, **extra, "ph": phase, "tid": ROWS.index(span.lane), "ts": time}
            )
    return events
