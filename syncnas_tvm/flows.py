"""From where to where data goes in a timeline: arrows between the lanes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncnas_tvm.steps import launches
from syncnas_tvm.timeline import RECEIVED, Span, Timeline, senders
from syncnas_tvm.work import Lane

Flow = tuple[Span, Span]
ROUNDING_US = 1e-6


def flows(timeline: Timeline) -> list[Flow]:
    """For every transfer between the lanes, the span that made what it moves and the first that reads it.

    The model's input is made by no span, and its output is read by none: they have no flow.
    """
    return list(_Flows(timeline).all())


class _Flows:
    """Times alone do not say it: when a transfer begins, the GPU may have kernels in its queue that
    were given to it before, and others done that were given to it after what is moved. But the queue
    keeps its order, and the host thread's is known."""

    def __init__(self, timeline: Timeline) -> None:
        self._host = timeline.lane_spans("host")
        self._cpu = timeline.lane_spans("cpu")
        self._gpu = launches(timeline)
        self._enqueues = [s for s in self._host if s.kind == "enqueue"]
        handed = [s for s in self._host if s.kind == "sync" and senders(s.name) == ("gpu",)]
        received = [s for s in self._host if s.name.endswith(RECEIVED)]
        self._handed = dict(zip(received, handed, strict=False))  # in the order in which they began

    def all(self) -> Iterator[Flow]:
        for move in self._host:
            for source in senders(move.name) if move.kind == "transfer" else ():
                made, read = self._ends(move, source)
                if made and read:
                    yield made[-1], read[0]

    def _ends(self, move: Span, source: Lane) -> tuple[list[Span], list[Span]]:
        given = self._given(self._handed.get(move, move))
        if source == "gpu":
            after = [s for s in self._cpu if s.start_us >= move.end_us - ROUNDING_US]
            return self._made_by_gpu(move, self._gpu[:given]), after
        return _before(move, self._cpu), [s for call in self._gpu[given:] for s in call]

    def _given(self, move: Span) -> int:
        """How many calls the GPU had been given when ``move`` began."""
        return len(_before(move, self._enqueues or [call[-1] for call in self._gpu]))

    def _made_by_gpu(self, move: Span, given: list[list[Span]]) -> list[Span]:
        """The spans of ``given``, up to the one that made what ``move`` moves."""
        spans = [span for call in given for span in call]
        if move in self._handed:
            return spans
        if move.ready_us is not None:
            return [s for s in spans if s.end_us <= move.ready_us + ROUNDING_US]
        thread = sorted((*self._host, *self._cpu), key=lambda s: s.start_us)
        before = [s for s in _before(move, thread) if s.kind != "transfer"]
        if before and before[-1].kind == "wait":  # for that, while the GPU had its next kernels
            return [s for s in spans if s.region == before[-1].region]
        return spans


def _before(move: Span, spans: Sequence[Span]) -> list[Span]:
    return [s for s in spans if s.end_us <= move.start_us + ROUNDING_US]
