"""What each lane did, one entry for each kernel, join, transfer, enqueue and wait of a timeline.

Predicted and measured timelines differ in form: a GPU kernel that is launched in several parts is
several measured spans, and a copy of which nothing but its time is known includes the wait for the GPU's
queue, which other timelines have as a span of its own. Steps have neither difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Span, SpanKind, SpanLane, Timeline, direction, senders
from syncnas_tvm.work import Kernel

LEAST_WAIT_US = 1e-3


@dataclass(frozen=True)
class Step:
    """Microseconds that something took its lane, and how many of them the other lane was busy too."""

    lane: SpanLane
    kind: SpanKind
    region: str
    name: str
    us: float
    overlap_us: float = 0.0
    kernel: Kernel | None = None

    @property
    def direction(self) -> str:
        """``cpu to gpu`` or ``gpu to cpu`` of a transfer that says so, else empty."""
        sources = senders(self.name) if self.kind == "transfer" else ()
        return direction(sources[0]) if len(sources) == 1 else ""

    def alone_us(self, costs: TargetCosts) -> float:
        """What a kernel would have taken with the other lane idle."""
        if self.lane == "host":
            return self.us
        slower = costs.cpu_contention if self.lane == "cpu" else costs.gpu_contention
        return self.us - self.overlap_us * (1 - 1 / slower)


def steps_of(timeline: Timeline) -> list[Step]:
    """The steps of one run, lane by lane, in the order in which they began."""
    busy = {lane: _kernels(timeline, lane) for lane in ("cpu", "gpu")}
    found = [_step(span, busy["gpu"]) for span in busy["cpu"]]
    for parts in launches(timeline):
        steps = [_step(part, busy["cpu"]) for part in parts]
        overlap_us = sum(step.overlap_us for step in steps)
        found.append(replace(steps[0], us=sum(s.us for s in steps), overlap_us=overlap_us))
    for span in timeline.lane_spans("host"):
        step = _step(span, [])
        whole = span.kind == "transfer" and not step.direction
        waited_us = _overlap_us(span, busy["gpu"]) if whole else 0.0
        if waited_us > LEAST_WAIT_US:
            found.append(replace(step, kind="wait", name="wait for gpu", us=waited_us))
            step = replace(step, us=step.us - waited_us)
        found.append(step)
    return found


def _kernels(timeline: Timeline, lane: SpanLane) -> list[Span]:
    return [s for s in timeline.lane_spans(lane) if s.kind in ("kernel", "sync")]


def _step(span: Span, others: Iterable[Span]) -> Step:
    region = span.region.split("..")[0]  # a measured span has the first region of a run alone
    overlap_us = _overlap_us(span, others)
    return Step(span.lane, span.kind, region, span.name, span.us, overlap_us, span.kernel)


def _overlap_us(span: Span, others: Iterable[Span]) -> float:
    """For how long any of ``others``, which do not overlap each other, was there too."""
    return sum(
        max(0.0, min(span.end_us, other.end_us) - max(span.start_us, other.start_us))
        for other in others
    )


def launches(timeline: Timeline) -> list[list[Span]]:
    """The GPU's spans by the call that launched them.

    A call's spans have its name and region. Of several equal calls in a row each has its share, where
    the spans can be shared out evenly.
    """
    spans = _kernels(timeline, "gpu")
    calls = [s for s in timeline.lane_spans("host") if s.kind == "enqueue"]
    counts = [((name, region), len(list(run))) for (name, region), run in groupby(calls, _which)]
    runs = [list(run) for _, run in groupby(spans, _which)]
    same = [which for which, _ in counts] == [_which(run[0]) for run in runs]
    if not same:  # a predicted timeline, whose spans are whole kernels
        return [[span] for span in spans]
    found = []
    for run, (_, count) in zip(runs, counts, strict=True):
        parts, rest = divmod(len(run), count)
        size = 1 if rest or not parts else parts
        found += [run[i : i + size] for i in range(0, len(run), size)]
    return found


def _which(span: Span) -> tuple[str, str]:
    return span.name, span.region
