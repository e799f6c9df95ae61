"""Timelines in the Trace Event Format that chrome://tracing and ui.perfetto.dev show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from syncnas_tvm.flows import flows
from syncnas_tvm.timeline import Span, SpanLane, Timeline

ROWS: tuple[SpanLane, ...] = ("host", "cpu", "gpu")


def chrome_trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """One process per timeline, one row per lane, transfers as flow arrows between the lanes.

    Times in the format are microseconds too. An arrow goes from the span that made what is moved to
    the first span that reads it.
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
    for number, (made, read) in enumerate(flows(timeline)):
        common = {"cat": "sync", "name": "sync", "id": f"{process}.{number}", "pid": process}
        start = {"ph": "s", "tid": ROWS.index(made.lane), "ts": made.end_us}
        end = {"ph": "f", "bp": "e", "tid": ROWS.index(read.lane), "ts": read.start_us}
        events += [{**common, **start}, {**common, **end}]
    return events
