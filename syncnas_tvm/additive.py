"""Scores in which phases follow each other without overlap: exactly what dynamic programming needs.

A phase takes the transfers before it plus the larger of the lanes' kernel times. A decision's cost
then depends on nothing before it but where the last value is, so costs of consecutive decisions
add up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from syncnas_tvm.errors import InputError
from syncnas_tvm.plan import first_to_last
from syncnas_tvm.scorer import State
from syncnas_tvm.simulator import (
    CPU,
    GPU,
    SHARED,
    KernelTimes,
    Segment,
    Simulator,
    needs,
)
from syncnas_tvm.targets import TargetCosts, Transfer
from syncnas_tvm.timeline import Span, SpanKind, SpanLane, Timeline, direction
from syncnas_tvm.work import LANES, Kernel, Lane, Phase

if TYPE_CHECKING:
    from syncnas_tvm.planner.space import Candidate


class Additive(Simulator):
    """Cost mode ``additive``: no overlap between phases, no contention, no enqueueing.

    A phase costs its transfers plus the larger of the lanes' kernels, joins of the shares before it
    included. A state is (clock, clock, where, last), the clock in microseconds.
    """

    def step(self, state: State, candidate: Candidate) -> State:
        """See :meth:`Scorer.step`."""
        clock, _, where, last = state
        for segment in self.segments(candidate):
            clock += self.move_us(where, segment, last) + max(self._lanes(where, segment, last))
            where, last = segment.where, segment
        return clock, clock, where, last

    def end(self, state: State) -> float:
        """See :meth:`Scorer.end`."""
        clock, _, where, last = state
        if last is None or where & CPU:
            return float(clock)
        return float(clock + last.to_cpu_us + (last.join_cpu_us if where == SHARED else 0.0))

    def key(self, state: State) -> Hashable:
        """Where the value is, and what it costs to move and to join."""
        return state[2], state[3] and state[3].pending

    def move_us(self, where: int, segment: Segment, last: Segment | None) -> float:
        """Microseconds of the transfers before ``segment``."""
        if last is None:
            return segment.input_us if segment.need & GPU else 0.0
        missing = segment.need & ~where
        to_cpu_us, to_gpu_us = self.exchange_us(last, segment)
        return (to_cpu_us if missing & CPU else 0.0) + (to_gpu_us if missing & GPU else 0.0)

    def timeline(self, candidates: Sequence[Candidate]) -> Timeline:
        """See :meth:`Scorer.timeline`: one transfer a phase, then both lanes' kernels."""
        spans: list[Span] = []
        state = self.start
        for candidate in candidates:
            region = first_to_last(candidate.decision.regions)
            clock, _, where, last = state
            ran = [phase for phase in candidate.work.phases if needs(phase)]
            for phase, segment in zip(ran, self.segments(candidate), strict=True):
                moved_us = self.move_us(where, segment, last)
                clock = _span(spans, "host", _moves(segment.need & ~where), clock, moved_us, region)
                lanes = self._lanes(where, segment, last)
                for lane, us in zip(LANES, lanes, strict=True):
                    begin = clock + us - sum(self.us(k) for k in phase.kernels(lane))
                    _span(spans, lane, "join", clock, begin - clock, region)
                    for kernel in phase.kernels(lane):
                        name = kernel.name or kernel.op
                        begin = _span(spans, lane, name, begin, self.us(kernel), region, kernel)
                clock += max(lanes)
                where, last = segment.where, segment
            state = clock, clock, where, last
        _span(spans, "host", _moves(CPU), state[0], self.end(state) - state[0], "")
        return Timeline(tuple(sorted(spans, key=lambda s: (s.start_us, s.end_us))), "predicted")

    def _segment(self, phase: Phase) -> Segment:
        """Border rows that come first gain nothing where phases follow each other."""
        seam = phase.output.seam
        if seam and seam.early:
            output = replace(phase.output, seam=replace(seam, early=None))
            phase = replace(phase, output=output)
        return super()._segment(phase)

    def _lanes(self, where: int, segment: Segment, last: Segment | None) -> tuple[float, float]:
        """Microseconds of each lane's kernels, what joins the shares before them included."""
        shared = last is not None and where == SHARED
        cpu = segment.cpu_us + (last.join_cpu_us if last and shared and segment.need & CPU else 0.0)
        gpu = segment.gpu.us + (last.join_gpu.us if last and shared and segment.need & GPU else 0.0)
        return cpu, gpu


class Study(Additive):
    """Cost mode ``study``: how much a plan gains if each sync costs ``sync_us``, and nothing else.

    Only convolutions and dense layers take time, without what is fused behind them. A sync is the
    exchange after a split, or a value that a lane needs and the other one alone has; it includes
    its transfers and the join. The model's input is free on both lanes, and its output where a lane
    has all of it. ``kernel_us`` is asked for kernels as :func:`bare` gives them.
    """

    def __init__(self, sync_us: float, kernel_us: KernelTimes) -> None:
        free = Transfer(0.0, float("inf"))
        super().__init__(TargetCosts(free, free, 0.0), kernel_us)
        known = self.us
        self.us = lambda kernel: known(bare(kernel)) if counts(kernel) else 0.0
        self.sync_us = sync_us

    def end(self, state: State) -> float:
        """See :meth:`Scorer.end`."""
        return float(state[0] + (self.sync_us if state[2] == SHARED else 0.0))

    def key(self, state: State) -> Hashable:
        """Where the value is, and whether there is one but the model's input."""
        return state[2], state[3] is None

    def move_us(self, where: int, segment: Segment, last: Segment | None) -> float:
        """One sync where a lane lacks something, whatever moves in whichever direction."""
        return self.sync_us if last is not None and segment.need & ~where else 0.0

    def _lanes(self, where: int, segment: Segment, last: Segment | None) -> tuple[float, float]:
        """The lanes' kernels alone: joins are part of the sync."""
        return segment.cpu_us, segment.gpu.us


def counts(kernel: Kernel) -> bool:
    """Whether ``kernel`` takes time in the study: a convolution or a dense layer."""
    return kernel.op in ("nn.conv2d", "matmul")


def bare(kernel: Kernel) -> Kernel:
    """``kernel`` without what is fused behind its main operator."""
    return replace(kernel, epilogue=()) if kernel.epilogue else kernel


def check_sync_us(sync_us: float | None) -> float:
    """The study's microseconds per sync; raises InputError where there are none, or too few."""
    if sync_us is None or not 0 <= sync_us < float("inf"):
        raise InputError(
            f"cost mode study needs the microseconds of a sync, found {sync_us}; give --sync-us"
        )
    return sync_us


def _moves(missing: int) -> str:
    """The name of the transfer to lanes (bits) that lack a value: one, or one in each direction."""
    sources: tuple[tuple[int, Lane], ...] = ((GPU, "cpu"), (CPU, "gpu"))
    return " and ".join(direction(source) for lane, source in sources if missing & lane)


def _span(
    spans: list[Span],
    lane: SpanLane,
    name: str,
    start: float,
    us: float,
    region: str,
    kernel: Kernel | None = None,
) -> float:
    """Add a span, unless it takes no time; returns its end."""
    if us > 1e-9:
        kind: SpanKind = "transfer" if lane == "host" else "sync" if name == "join" else "kernel"
        spans.append(Span(lane, name, start, start + us, kind, region, kernel))
        return start + us
    return start
