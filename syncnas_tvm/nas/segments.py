"""A segment: the stages of both branches between two syncs, as a function of their widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from syncnas_tvm.nas.ladders import Floats, Ladder, Ladders, Whole
from syncnas_tvm.targets import TargetCosts

GRID = 256
"""Steps of the common ratio of a segment's widths to the base's, from nothing to the cap."""


@dataclass(frozen=True)
class Ends:
    """When each lane is done after the segment begins, in microseconds."""

    cpu_us: float
    gpu_us: float

    @property
    def us(self) -> float:
        """When both are."""
        return max(self.cpu_us, self.gpu_us)


class Segment:
    """Consecutive stages that end with a sync, and the time both lanes take for given rungs.

    A rung is an index into a ladder's widths. ``join_us`` is what each lane spends first on joining
    the value that the segment starts from. The lanes' times follow ``syncnas_tvm.simulator``: the host
    thread enqueues the GPU's kernels, then runs the CPU's; while both run, both are slower.
    """

    def __init__(
        self,
        ladders: Ladders,
        stages: tuple[tuple[int, int], ...],
        costs: TargetCosts,
        join_us: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.stages = stages
        self.blocks: tuple[Ladder, ...] = tuple(
            ladder for stage, half in stages for ladder in ladders.stages[stage][half]
        )
        self.costs, self.join_us = costs, join_us
        ratios = np.linspace(0.0, ladders.cap, GRID + 1)
        rungs = [
            np.clip(np.rint(ratios * b.base / ladders.step).astype(np.int64), 1, len(b.widths)) - 1
            for b in self.blocks
        ]
        self.rungs: Whole = np.stack(rungs, axis=1)
        self.ends_us = tuple(
            np.maximum.accumulate(self._alone(lane, self.rungs)) for lane in (0, 1)
        )

    def widths(self, rungs: Whole) -> tuple[int, ...]:
        """The channels at ``rungs``, a number per block."""
        return tuple(int(b.widths[r]) for b, r in zip(self.blocks, rungs, strict=True))

    def ends(self, cpu: Whole, gpu: Whole) -> Ends:
        """When the lanes are done, exactly as the simulator says for kernels of even length."""
        host, queue = float(self._lead(gpu)), float(self._alone(1, gpu))
        cpu_us = float(self._alone(0, cpu))
        left = queue - host
        if left <= 0.0:
            return Ends(host + cpu_us, queue)
        c = self.costs
        both = min(cpu_us * c.cpu_contention, left * c.gpu_contention)
        return Ends(
            host + both + (cpu_us - both / c.cpu_contention),
            host + both + (left - both / c.gpu_contention),
        )

    def within(self, us: float) -> tuple[Whole, Whole]:
        """The widest rungs, in the base's proportions, with which each lane is done after ``us``.

        At least the narrowest, whatever ``us`` is.
        """
        grid = self.ends_us[1]
        gpu = self.rungs[max(0, int(np.searchsorted(grid, self._gpu_limit(us), "right")) - 1)]
        lead = float(self._lead(gpu))
        limit = (us - lead) / self.costs.cpu_contention
        cpu = self.rungs[max(0, int(np.searchsorted(self.ends_us[0], limit, "right")) - 1)]
        return cpu, gpu

    def _gpu_limit(self, us: float) -> float:
        lead = float(self._lead(self.rungs[-1]))
        return us if us <= lead else lead + (us - lead) / self.costs.gpu_contention

    def _lead(self, gpu: Whole) -> Floats:
        """How long the host thread enqueues; for rungs (..., blocks)."""
        counts = [b.kernels[gpu[..., i]] for i, b in enumerate(self.blocks)]
        join = 1 if self.join_us[1] else 0
        return np.asarray((np.sum(counts, axis=0) + join) * self.costs.enqueue_us)

    def _alone(self, lane: int, rungs: Whole) -> Floats:
        """The lane's time with the other one idle, for rungs (..., blocks).

        The GPU's counts from the first enqueue on.
        """
        blocks_us = [b.us[lane][rungs[..., i]] for i, b in enumerate(self.blocks)]
        us = np.asarray(self.join_us[lane] + np.sum(blocks_us, axis=0))
        if lane == 0:
            return us
        last = self.blocks[-1].last_us[rungs[..., -1]]
        return np.maximum(self.costs.enqueue_us + us, self._lead(rungs) + last)
