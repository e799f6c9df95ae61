"""Predicts the timeline of a plan: two lanes, one host thread, in the Relax VM's program order.

The model, phase by phase:

- The host thread hands the GPU what it lacks and its kernels (``enqueue_us`` each), then fetches
  what the CPU lane lacks and runs that lane's kernels itself. The GPU runs its queue in order,
  each kernel as soon as it is enqueued and the one before has ended.
- What goes to the GPU waits for nothing; what comes from it waits for the kernels that were
  queued before this phase, not for those that the phase has just added. The model's input starts
  on the CPU lane, its output ends there.
- After a phase the value is whole on the lanes that ran kernels (``copy``), or each lane holds
  its share (``sum``, ``concat``). A lane that runs kernels next gets what it lacks in one
  transfer, and joins the shares itself; of bands of rows it gets those that it reads, and joins
  nothing. Nothing of 0 bytes is moved.
- A seam whose border rows are ``early`` is exchanged before the lanes' last kernels, the rest's, are
  done: the host thread only hands over the copies (``enqueue_us`` each) and the GPU's next kernels,
  which begin when the CPU lane's rows are there; then it runs the CPU lane's rest, and waits for the
  GPU's rows, which left when its queue had only the rest to do. Where the next phase needs one lane
  alone or more rows, the rest runs first and all is as above.
- Contention: while the CPU lane's kernels and the GPU's queue run at the same time, each takes
  ``cpu_contention`` or ``gpu_contention`` times as long. Kernels are treated as fluid: at a
  change the rest of a kernel goes on at the new speed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from syncnas_tvm.scorer import Scorer, State
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Timeline
from syncnas_tvm.work import LANES, Interval, Kernel, Lane, Phase, Seam, tensor_bytes

if TYPE_CHECKING:
    from syncnas_tvm.planner.space import Candidate

KernelTimes = Mapping[Kernel, float] | Callable[[Kernel], float]
CPU, GPU, SHARED = 1, 2, 0
"""Where a value is: whole on a lane (bits), or shared between both."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Kernels handed to the GPU in a row: ``us`` of work, done ``done_us`` after the first
    enqueue begins if the GPU was idle. ``lead_us`` is the host's time to enqueue them."""

    us: float = 0.0
    done_us: float = 0.0
    lead_us: float = 0.0

    @staticmethod
    def of(times_us: Sequence[float], enqueue_us: float) -> Queue:
        """A queue of kernels that take ``times_us`` each."""
        done = 0.0
        for index, us in enumerate(times_us, 1):
            done = max(done, index * enqueue_us) + us
        return Queue(sum(times_us), done, len(times_us) * enqueue_us)

    def then(self, other: Queue) -> Queue:
        """This queue and ``other`` behind it."""
        done = max(self.done_us + other.us, self.lead_us + other.done_us)
        return Queue(self.us + other.us, done, self.lead_us + other.lead_us)


@dataclass(frozen=True, slots=True)
class Segment:
    """A phase with everything added up that does not depend on the phases around it."""

    need: int
    where: int
    cpu_us: float
    gpu: Queue
    join_cpu_us: float
    join_gpu: Queue
    to_cpu_us: float
    to_gpu_us: float
    input_us: float
    seam: Seam | None = None
    reads: tuple[Interval, Interval] | None = None
    early: bool = False
    """Whether the border rows come first: ``cpu_us`` is then without ``cpu_rest_us``, still to run."""
    cpu_rest_us: float = 0.0
    gpu_rest_us: float = 0.0
    stale_us: float = 0.0
    """How long before the host's clock the end of the GPU's queue still matters: border rows that
    left then can be under way."""
    pending: tuple[float, ...] = field(init=False)
    """What it will cost the lanes that lack the value to get it: all that later phases see."""

    def __post_init__(self) -> None:
        found: tuple[float, ...]
        if self.seam:
            found = (self.where, self.seam.cut, self.seam.height, self.seam.row_bytes)
            if self.early and self.seam.early:
                found += (*self.seam.early, self.cpu_rest_us, self.gpu_rest_us)
        elif self.where == SHARED:
            found = (
                self.to_cpu_us,
                self.to_gpu_us,
                self.join_cpu_us,
                *(self.join_gpu.us, self.join_gpu.done_us, self.join_gpu.lead_us),
            )
        else:
            found = (
                0.0 if self.where & CPU else self.to_cpu_us,
                0.0 if self.where & GPU else self.to_gpu_us,
            )
        object.__setattr__(self, "pending", found)


def needs(phase: Phase) -> int:
    """The lanes that run kernels in ``phase``, as bits."""
    return (CPU if phase.cpu else 0) | (GPU if phase.gpu else 0)


def where_after(phase: Phase) -> int:
    """Where the value is after ``phase``: whole on the lanes that ran, or SHARED."""
    ran = needs(phase)
    return SHARED if ran == CPU | GPU and phase.output.kind != "copy" else ran


def rest_kernels(phase: Phase, lane: Lane) -> tuple[Kernel, ...]:
    """The kernel of ``lane`` that computes what is left when its border rows are done, if it is cut.

    Only where each lane has its band does anything move early.
    """
    early = phase.output.seam and phase.output.seam.early
    cut = early and early[LANES.index(lane)] and where_after(phase) == SHARED
    return phase.kernels(lane)[-1:] if cut else ()


def join_kernels(phase: Phase, lane: Lane) -> tuple[Kernel, ...]:
    """What ``lane`` runs to join the shares after ``phase``.

    The join's kernels for that lane; where they all name the other lane, the same ones here. None
    at a seam.
    """
    join = () if phase.output.seam else phase.output.join
    return tuple(k for k in join if k.lane == lane) or tuple(replace(k, lane=lane) for k in join)


def input_bytes(phase: Phase) -> int:
    """Bytes of the model's input, as the first GPU kernel of the model's first phase reads it."""
    return tensor_bytes(phase.gpu[0].shapes[0], phase.gpu[0].dtype) if phase.gpu else 0


def contend(host: float, queue: float, cpu_us: float, costs: TargetCosts) -> tuple[float, float]:
    """When the host thread and the GPU's queue are done, if ``cpu_us`` of kernels start at
    ``host`` while the queue would be done at ``queue`` undisturbed."""
    left = queue - host
    if left <= 0.0:
        return host + cpu_us, queue
    both = shared_us(cpu_us, left, costs)
    return (
        host + both + (cpu_us - both / costs.cpu_contention),
        host + both + (left - both / costs.gpu_contention),
    )


def shared_us(cpu_us: float, gpu_us: float, costs: TargetCosts) -> float:
    """How long both lanes run when they begin ``cpu_us`` and ``gpu_us`` of work together."""
    return min(cpu_us * costs.cpu_contention, gpu_us * costs.gpu_contention)


class Simulator(Scorer):
    """Scores plans from kernel times and a target's costs.

    ``kernel_us`` gives the microseconds of each kernel alone on its lane. What a candidate
    costs by itself is added up once and kept, so a plan of 20 regions scores in tens of
    microseconds.

    A state is (host, queue, where, last): when the host thread and the GPU's queue are done, where
    the value is, and the phase that made it.
    """

    start: State = (0.0, 0.0, CPU, None)

    def __init__(self, costs: TargetCosts, kernel_us: KernelTimes) -> None:
        self.costs = costs
        self._known = dict(kernel_us) if isinstance(kernel_us, Mapping) else None
        self.us: Callable[[Kernel], float] = (
            kernel_us if self._known is None else self._known.__getitem__  # type: ignore[assignment]
        )
        self._segments: dict[int, tuple[Candidate, tuple[Segment, ...]]] = {}

    def unknown(self, kernels: Iterable[Kernel]) -> list[Kernel]:
        """Those of ``kernels`` whose times have not been given."""
        return [] if self._known is None else [k for k in kernels if k not in self._known]

    def learn(self, kernel_us: Mapping[Kernel, float]) -> None:
        """Also know the times of these kernels, in microseconds; what is known stays as it is."""
        if self._known is not None:
            self._known |= {k: us for k, us in kernel_us.items() if k not in self._known}

    def step(self, state: State, candidate: Candidate) -> State:
        """See :meth:`Scorer.step`."""
        host, queue, where, last = state
        costs = self.costs
        found = self._segments.get(id(candidate))
        for segment in found[1] if found else self.segments(candidate):
            need = segment.need
            cpu_us, gpu = segment.cpu_us, segment.gpu
            before, fetch_us = queue, 0.0
            if last is None:
                if need & GPU:
                    host += segment.input_us
            elif where == SHARED:
                if last.early:
                    if need == CPU | GPU and last.seam.covers(segment.reads):
                        host, queue = self.overlap(host, queue, last, segment)
                        where, last = segment.where, segment
                        continue
                    host, queue = contend(host, queue, last.cpu_rest_us, costs)
                    before = queue
                to_cpu_us, to_gpu_us = self.exchange_us(last, segment)
                if need & GPU:
                    host += to_gpu_us
                    gpu = last.join_gpu.then(gpu)
                if need & CPU:
                    fetch_us = to_cpu_us
                    cpu_us += last.join_cpu_us
            elif need & ~where:
                to_cpu_us, to_gpu_us = self.exchange_us(last, segment)
                if where == CPU:
                    host += to_gpu_us
                else:
                    fetch_us = to_cpu_us
            if gpu.us or gpu.lead_us:
                idle, behind = host + gpu.done_us, queue + gpu.us
                queue = idle if idle > behind else behind
                host += gpu.lead_us
            if fetch_us:
                host = (host if host > before else before) + fetch_us
            if cpu_us:
                if queue > host:
                    host, queue = contend(host, queue, cpu_us, costs)
                else:
                    host += cpu_us
            where, last = segment.where, segment
        if queue < host:
            least = host - last.stale_us
            queue = queue if queue > least else least
        return host, queue, where, last

    def overlap(
        self, host: float, queue: float, last: Segment, segment: Segment
    ) -> tuple[float, float]:
        """The clocks after ``segment``, if border rows of ``last`` travel during the rest of it."""
        costs, gpu = self.costs, segment.gpu
        to_cpu_us, to_gpu_us = self.exchange_us(last, segment)
        done, start = queue - last.gpu_rest_us, queue  # of the GPU's rows, and its next kernels
        if to_gpu_us:
            host += costs.enqueue_us
            start = max(queue, host + to_gpu_us)
        if to_cpu_us:
            host += costs.enqueue_us
        queue = max(host + gpu.done_us, start + gpu.us)
        host += gpu.lead_us
        if done > host:
            done = contend(host, done, last.cpu_rest_us, costs)[1]
        host, queue = contend(host, queue, last.cpu_rest_us, costs)
        if to_cpu_us:
            host = max(host, done + to_cpu_us)
        return contend(host, queue, segment.cpu_us, costs)

    def exchange_us(self, last: Segment, segment: Segment) -> tuple[float, float]:
        """Microseconds to give the CPU lane and the GPU what they lack of ``last``'s value."""
        seam, reads = last.seam, segment.reads
        if seam is None or reads is None:
            return last.to_cpu_us, last.to_gpu_us
        costs = self.costs
        return (
            costs.to_cpu.us(seam.bytes_to("cpu", reads[0])),
            costs.to_gpu.us(seam.bytes_to("gpu", reads[1])),
        )

    def end(self, state: State) -> float:
        """See :meth:`Scorer.end`."""
        host, queue, where, last = state
        if last is not None and not where & CPU:
            if last.early:
                host, queue = contend(host, queue, last.cpu_rest_us, self.costs)
            if last.to_cpu_us:
                host = (host if host > queue else queue) + last.to_cpu_us
            if where == SHARED:
                host, queue = contend(host, queue, last.join_cpu_us, self.costs)
        return host if host > queue else queue

    def key(self, state: State) -> Hashable:
        """How far the queue lags behind the host, where the value is, and what it costs to move."""
        host, queue, where, last = state
        return (round(queue - host, 3), where, last and last.pending)

    def timeline(self, candidates: Sequence[Candidate]) -> Timeline:
        """The plan's predicted timeline, every kernel, transfer, enqueue and wait in it."""
        from syncnas_tvm.recorder import record

        return record(candidates, self.costs, self.us)

    def segments(self, candidate: Candidate) -> tuple[Segment, ...]:
        """The candidate's phases that run anything, added up; once for each candidate object."""
        found = self._segments.get(id(candidate))
        if found is None:
            phases = tuple(self._segment(p) for p in candidate.work.phases if needs(p))
            found = self._segments[id(candidate)] = (candidate, phases)
        return found[1]

    def _segment(self, phase: Phase) -> Segment:
        output, us, enqueue_us = phase.output, self.us, self.costs.enqueue_us
        cpu_rest, gpu_rest = (rest_kernels(phase, lane) for lane in LANES)
        gpu_rest_us = sum(us(k) for k in gpu_rest)
        joins = {lane: [us(k) for k in join_kernels(phase, lane)] for lane in ("cpu", "gpu")}
        return Segment(
            need=needs(phase),
            where=where_after(phase),
            cpu_us=sum(us(k) for k in phase.cpu[: len(phase.cpu) - len(cpu_rest)]),
            gpu=Queue.of([us(k) for k in phase.gpu], enqueue_us),
            join_cpu_us=sum(joins["cpu"]),
            join_gpu=Queue.of(joins["gpu"], enqueue_us),
            to_cpu_us=self.costs.to_cpu.us(output.gpu_bytes),
            to_gpu_us=self.costs.to_gpu.us(output.cpu_bytes),
            input_us=self.costs.to_gpu.us(input_bytes(phase)),
            seam=output.seam,
            reads=phase.reads,
            early=bool(cpu_rest or gpu_rest),
            cpu_rest_us=sum(us(k) for k in cpu_rest),
            gpu_rest_us=gpu_rest_us,
            stale_us=max(0.0, self._early_us(output.seam) - gpu_rest_us) if gpu_rest else 0.0,
        )

    def _early_us(self, seam: Seam | None) -> float:
        """Microseconds to give the CPU lane all of the GPU lane's early rows."""
        return self.costs.to_cpu.us(seam.early[1] * seam.row_bytes) if seam and seam.early else 0.0
