"""How long every block of a base network takes at every width, on both lanes, predicted at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.nas.branched import check_base
from syncnas_tvm.nas.description import BlockShape, Network
from syncnas_tvm.nas.kernels import block_kernels
from syncnas_tvm.work import LANES, Kernel

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Ladder:
    """A block of a branch: its possible widths, and per lane the microseconds at each of them.

    ``kernels`` counts the block's kernels at each width (two where it does not expand), ``last_us``
    is the last kernel's own time on the GPU lane.
    """

    base: int
    widths: Whole
    us: tuple[Floats, Floats]
    kernels: Whole
    last_us: Floats


class Ladders:
    """The ladders of a base network: ``ladders[stage][half][block]``.

    ``half`` is 1 for a stage that ends in a concatenation, where blocks give half the channels, else
    0. Widths are the multiples of ``step`` up to ``cap`` times the base's expanded channels.
    ``known`` has the microseconds of every kernel: a cost model makes the cuts in one call monotone, so
    another call could say something else.
    """

    def __init__(
        self, base: Network, model: CostModel, *, size: int = 224, step: int = 4, cap: float = 1.25
    ) -> None:
        check_base(base)
        self.base, self.size, self.step, self.cap = base, size, step, cap
        kernels: list[Kernel] = []
        plan: list[list[list[tuple[int, Whole, Whole]]]] = []
        for stage in base.shapes(size):
            plan.append([])
            for half in (0, 1) if stage[0].block.out % 2 == 0 else (0,):
                plan[-1].append([])
                for index, shape in enumerate(stage):
                    widths = self._widths(shape.block.expand)
                    counts = self._add(kernels, shape, widths, half, index)
                    plan[-1][-1].append((shape.block.expand, widths, counts))
        us, _ = model.predict(kernels)
        self.known: dict[Kernel, float] = dict(zip(kernels, us.tolist(), strict=True))
        self._at = 0
        self.stages = tuple(
            tuple(tuple(self._ladder(us, *block) for block in blocks) for blocks in halves)
            for halves in plan
        )

    def _widths(self, expand: int) -> Whole:
        most = max(1, int(expand * self.cap) // self.step)
        return np.arange(1, most + 1, dtype=np.int64) * self.step

    def _add(
        self, kernels: list[Kernel], shape: BlockShape, widths: Whole, half: int, index: int
    ) -> Whole:
        """Append the block's kernels at all widths, lane by lane; return how many each has."""
        out = shape.block.out // 2 if half else shape.block.out
        inputs = out if index else shape.inputs
        residual = shape.block.stride == 1 and inputs == out
        counts = []
        for lane in LANES:
            for width in widths.tolist():
                block = replace(shape.block, expand=width, out=out, expand_conv=False)
                cut = replace(shape, block=block, inputs=inputs, residual=residual)
                found = block_kernels(cut, lane)
                kernels.extend(found)
                counts.append(len(found))
        return np.asarray(counts[: len(widths)], np.int64)

    def _ladder(self, us: Floats, base: int, widths: Whole, counts: Whole) -> Ladder:
        ends = np.cumsum(counts)
        sums = []
        last = us
        for _ in LANES:
            part = us[self._at : self._at + int(ends[-1])]
            sums.append(np.add.reduceat(part, ends - counts))
            last = part[ends - 1]
            self._at += int(ends[-1])
        return Ladder(base, widths, (sums[0], sums[1]), counts, last)
