"""What a plan costs: both lanes, every kernel, transfer and sync with start and end.

Predicted timelines come from :mod:`syncnas_tvm.simulator`, measured ones from the runtime; one
type serves both, so that they can be laid over each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from syncnas_tvm.cost_models.kernel_json import kernel_from_json, kernel_to_json
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.work import LANES, Kernel, Lane, other

SpanLane = Literal["cpu", "gpu", "host"]
SpanKind = Literal["kernel", "enqueue", "transfer", "sync", "wait"]
Source = Literal["predicted", "measured"]
Interval = tuple[float, float]

FORMAT = 1


@dataclass(frozen=True)
class Span:
    """Something that took a lane's time, from ``start_us`` to ``end_us``.

    Lane ``host`` is the thread that runs the model: it enqueues, moves data and waits; the CPU
    lane's kernels run on it too and are shown on lane ``cpu``. Kind ``sync`` is a kernel that
    joins the lanes' results. ``region`` names the region or run of regions it belongs to; a predicted
    kernel says which one it is. The name of a transfer between the lanes has its :func:`direction`;
    ``ready_us`` is when what it moves was made, where the prediction knows.
    """

    lane: SpanLane
    name: str
    start_us: float
    end_us: float
    kind: SpanKind
    region: str = ""
    kernel: Kernel | None = None
    ready_us: float | None = None

    @property
    def us(self) -> float:
        """How long it took, in microseconds."""
        return self.end_us - self.start_us

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a field per attribute; none for what is not known."""
        data = {name: value for name, value in vars(self).items() if value is not None}
        if self.kernel is not None:
            data["kernel"] = kernel_to_json(self.kernel)
        return data


@dataclass(frozen=True)
class Timeline:
    """All spans of one run of a model, predicted or measured; times in microseconds."""

    spans: tuple[Span, ...]
    source: Source

    @cached_property
    def latency_us(self) -> float:
        """From the first span's start to the last span's end; 0 where there are none."""
        if not self.spans:
            return 0.0
        return max(s.end_us for s in self.spans) - min(s.start_us for s in self.spans)

    def busy_us(self, lane: SpanLane) -> float:
        """How long ``lane`` did anything but wait."""
        return sum(end - start for start, end in self._busy(lane))

    @cached_property
    def overlap_us(self) -> float:
        """How long both the CPU and the GPU lane were busy at the same time."""
        gpu = self._busy("gpu")
        return sum(
            max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in self._busy("cpu") for b in gpu
        )

    def lane_spans(self, lane: SpanLane) -> tuple[Span, ...]:
        """The spans of ``lane``, by start."""
        return tuple(sorted((s for s in self.spans if s.lane == lane), key=lambda s: s.start_us))

    def count(self, kind: SpanKind) -> int:
        """Number of spans of ``kind``."""
        return sum(s.kind == kind for s in self.spans)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back."""
        lanes: tuple[Lane, Lane] = get_args(Lane)
        return {
            "format": FORMAT,
            "source": self.source,
            "latency_us": self.latency_us,
            "busy_us": {lane: self.busy_us(lane) for lane in lanes},
            "overlap_us": self.overlap_us,
            "spans": [span.to_json() for span in self.spans],
        }

    @staticmethod
    def from_json(data: Any) -> Timeline:
        """Read a timeline; raises ArtifactError where ``data`` is none or of another format."""
        if not isinstance(data, Mapping) or data.get("source") not in get_args(Source):
            raise ArtifactError(
                "a timeline is a JSON object with 'source' and 'spans'; compile again"
            )
        if data.get("format", FORMAT) != FORMAT:
            raise ArtifactError(
                f"timeline format {data.get('format')} is not supported, only {FORMAT};"
                " compile again"
            )
        try:
            spans = tuple(_span(item) for item in data["spans"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the timeline is damaged ({error}); compile again") from error
        return Timeline(spans, data["source"])

    def to_chrome_trace(self) -> dict[str, Any]:
        """The timeline for chrome://tracing or ui.perfetto.dev; dump it as JSON."""
        from syncnas_tvm.trace import chrome_trace

        return chrome_trace([self])

    def _busy(self, lane: SpanLane) -> list[Interval]:
        return _union(
            (s.start_us, s.end_us) for s in self.spans if s.lane == lane and s.kind != "wait"
        )


RECEIVED = ", received"
"""Ends the name of a transfer that a hand-over to the queue has begun, in a measured timeline."""


def direction(source: Lane) -> str:
    """What a transfer from ``source`` to the other lane is called."""
    return f"{source} to {other(source)}"


def senders(name: str) -> tuple[Lane, ...]:
    """The lanes from which a transfer of that name moves something to the other one."""
    return tuple(lane for lane in LANES if direction(lane) in name)


def read_timelines(path: Path) -> dict[str, Timeline]:
    """The timelines in a compiled folder's timeline.json, by source; raises ArtifactError."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: Timeline.from_json(item) for name, item in data.items()}
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} holds no timelines ({error}); compile again") from error


def _span(item: Mapping[str, Any]) -> Span:
    lane, kind = item["lane"], item["kind"]
    if lane not in get_args(SpanLane) or kind not in get_args(SpanKind):
        raise ValueError(f"lane {lane!r}, kind {kind!r}")
    start, end = float(item["start_us"]), float(item["end_us"])
    if not start <= end:
        raise ValueError(f"a span from {start} to {end} us")
    kernel = None if item.get("kernel") is None else kernel_from_json(item["kernel"])
    ready = None if item.get("ready_us") is None else float(item["ready_us"])
    region = str(item.get("region", ""))
    return Span(lane, str(item["name"]), start, end, kind, region, kernel, ready)


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals, by start, that cover the same time."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
