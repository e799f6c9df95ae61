"""The simulator's slow path: the same model as its fast path, kernel by kernel, as spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from syncnas_tvm.plan import first_to_last
from syncnas_tvm.simulator import (
    CPU,
    GPU,
    SHARED,
    input_bytes,
    join_kernels,
    needs,
    rest_kernels,
    shared_us,
    where_after,
)
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Span, SpanKind, Timeline, direction
from syncnas_tvm.work import LANES, Kernel, Lane, Phase, other

if TYPE_CHECKING:
    from syncnas_tvm.planner.space import Candidate

Step = tuple[Kernel, SpanKind]


def record(
    candidates: Sequence[Candidate], costs: TargetCosts, us: Callable[[Kernel], float]
) -> Timeline:
    """The predicted timeline of ``candidates``, in order of the spans' starts."""
    recorder = _Recorder(costs, us)
    for candidate in candidates:
        region = first_to_last(candidate.decision.regions)
        for phase in candidate.work.phases:
            if needs(phase):
                recorder.phase(phase, region)
    recorder.finish()
    spans = sorted(recorder.done + recorder.queue, key=lambda s: (s.start_us, s.end_us))
    return Timeline(tuple(spans), "predicted")


class _Recorder:
    """Two clocks (host thread and end of the GPU's queue), and where the last value is.

    Of a phase whose border rows are early, ``rest`` is what the CPU lane has still to run, and
    ``rows_done`` when the GPU lane's rows can leave.
    """

    def __init__(self, costs: TargetCosts, us: Callable[[Kernel], float]) -> None:
        self.costs, self.us = costs, us
        self.host = self.queue_end = self.rows_done = 0.0
        self.rest: list[Step] = []
        self.done: list[Span] = []
        self.queue: list[Span] = []
        self.last: Phase | None = None
        self.where, self.region = CPU, ""

    def phase(self, phase: Phase, region: str) -> None:
        """What a phase makes the lanes do, up to the CPU lane's border rows if these are early."""
        if self._leaves_early(phase):
            self._overlap(phase, region)
            joins = 0
        else:
            self._run_rest()
            joins = self._exchange(phase, region)
        cpu, gpu = (rest_kernels(phase, lane) for lane in LANES)
        first = phase.cpu[: len(phase.cpu) - len(cpu)]
        self._run([*self._join("cpu", joins), *_steps(first)])
        self.rest = _steps(cpu)
        self.rows_done = self.queue_end - sum(self.us(k) for k in gpu)
        self.last, self.where = phase, where_after(phase)

    def _exchange(self, phase: Phase, region: str) -> int:
        """Give the GPU what it lacks and its kernels, fetch what the CPU lacks; the lanes that join."""
        missing = self._missing(needs(phase))
        joins = missing if self.where == SHARED else 0
        source, self.region = self.region or region, region  # a transfer belongs to what it is of
        if missing & GPU:
            size = self._lacks("gpu", phase) if self.last else input_bytes(phase)
            self._transfer("cpu", size, source)
        before = self.queue_end
        self._enqueue([*self._join("gpu", joins), *_steps(phase.gpu)])
        if missing & CPU and self.last is not None:
            self._transfer("gpu", self._lacks("cpu", phase), source, before)
        return joins

    def _leaves_early(self, phase: Phase) -> bool:
        """Whether the last phase's border rows come first and are all that ``phase`` lacks."""
        last = self.last
        if last is None or not any(rest_kernels(last, lane) for lane in LANES):
            return False
        seam = last.output.seam
        return seam is not None and needs(phase) == CPU | GPU and seam.covers(phase.reads)

    def _overlap(self, phase: Phase, region: str) -> None:
        """Hand over the border rows and the GPU's kernels, run the CPU's rest, wait for its rows."""
        source, self.region = self.region, region
        to_gpu, to_cpu = self._lacks("gpu", phase), self._lacks("cpu", phase)
        enqueue_us = self.costs.enqueue_us
        if to_gpu:
            name = f"{direction('cpu')} {to_gpu} B"
            self.done.append(self._host_span(name, enqueue_us, "transfer", source))
            self.queue_end = max(self.queue_end, self.host + self.costs.to_gpu.us(to_gpu))
        if to_cpu:  # no transfer yet: its span ends where the CPU lane goes on with the rows
            name = f"enqueue {direction('gpu')} {to_cpu} B"
            self.done.append(self._host_span(name, enqueue_us, "sync", source))
        self._enqueue(_steps(phase.gpu))
        self._run_rest(source)
        if to_cpu:
            self._receive(to_cpu, source)

    def _receive(self, size: int, region: str) -> None:
        """Wait for the GPU's border rows and for their way, or find them there."""
        left_us = self.rows_done
        self._wait(left_us, region)
        under_way_us = max(0.0, left_us + self.costs.to_cpu.us(size) - self.host)
        name = f"{direction('gpu')} {size} B"
        moved = self._host_span(name, under_way_us, "transfer", region)
        self.done.append(replace(moved, ready_us=left_us))

    def finish(self) -> None:
        """Bring the model's output to the CPU lane, and wait for what is still queued."""
        self._run_rest()
        if self.last is not None and not self.where & CPU:
            shared = self.where == SHARED
            self._transfer("gpu", self.last.output.gpu_bytes, self.region, self.queue_end)
            if shared:
                self._run([(k, "sync") for k in join_kernels(self.last, "cpu")])
        self._wait(self.queue_end, self.region)

    def _missing(self, need: int) -> int:
        """The lanes that run and lack the value, or a part of it."""
        return need if self.where == SHARED else need & ~self.where

    def _lacks(self, lane: Lane, phase: Phase) -> int:
        """Bytes of the last value that ``lane`` has to get for ``phase``."""
        output = self.last.output if self.last else phase.output
        if output.seam:
            return output.seam.bytes_to(lane, phase.rows_read(lane))
        return output.bytes_from(other(lane))

    def _join(self, lane: Lane, lanes: int) -> list[Step]:
        wanted = lanes & (CPU if lane == "cpu" else GPU)
        if not wanted or self.last is None:
            return []
        return [(k, "sync") for k in join_kernels(self.last, lane)]

    def _transfer(
        self, source: Lane, size: int, region: str, ready_us: float | None = None
    ) -> None:
        us = self.costs.transfer(source).us(size)
        if us:
            self._wait(ready_us or 0.0, region)
            moved = self._host_span(f"{direction(source)} {size} B", us, "transfer", region)
            self.done.append(replace(moved, ready_us=ready_us))

    def _wait(self, until_us: float, region: str) -> None:
        if until_us > self.host:
            us = until_us - self.host
            self.done.append(self._host_span("wait for gpu", us, "wait", region))

    def _host_span(self, name: str, us: float, kind: SpanKind, region: str) -> Span:
        start, self.host = self.host, self.host + us
        return Span("host", name, start, self.host, kind, region)

    def _enqueue(self, steps: Sequence[Step]) -> None:
        for kernel, kind in steps:
            name = kernel.name or kernel.op
            enqueue_us = self.costs.enqueue_us
            self.done.append(self._host_span(f"enqueue {name}", enqueue_us, "enqueue", self.region))
            start = max(self.host, self.queue_end)
            self.queue_end = start + self.us(kernel)
            self.queue.append(Span("gpu", name, start, self.queue_end, kind, self.region, kernel))

    def _run_rest(self, region: str | None = None) -> None:
        """What the last phase (of ``region``) left to the CPU lane."""
        here = self.region
        self.region = here if region is None else region
        self._run(self.rest)
        self.rest, self.region = [], here

    def _run(self, steps: Sequence[Step]) -> None:
        """CPU kernels back to back, slowed down, and slowing the GPU, while its queue runs."""
        start, total = self.host, sum(self.us(kernel) for kernel, _ in steps)
        left = max(0.0, self.queue_end - start)
        both = shared_us(total, left, self.costs)

        def real(work_us: float, factor: float) -> float:
            """When ``work_us`` of undisturbed work, counted from ``start``, is really done."""
            return start + (
                work_us * factor if work_us * factor <= both else both + work_us - both / factor
            )

        work_us = 0.0
        for kernel, kind in steps:
            begin = real(work_us, self.costs.cpu_contention)
            work_us += self.us(kernel)
            self.host = real(work_us, self.costs.cpu_contention)
            name = kernel.name or kernel.op
            self.done.append(Span("cpu", name, begin, self.host, kind, self.region, kernel))
        if not both:
            return
        for index, span in enumerate(self.queue):
            if span.end_us > start:
                ends = (
                    t if t <= start else real(t - start, self.costs.gpu_contention)
                    for t in (span.start_us, span.end_us)
                )
                begin, end = ends
                self.queue[index] = replace(span, start_us=begin, end_us=end)
        self.queue_end = real(left, self.costs.gpu_contention)
        if self.rows_done > start:
            self.rows_done = real(self.rows_done - start, self.costs.gpu_contention)


def _steps(kernels: Sequence[Kernel]) -> list[Step]:
    return [(kernel, "kernel") for kernel in kernels]
