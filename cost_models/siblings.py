"""Which kernels are cuts of one another, and a latency between two of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

from syncnas_tvm.work import Kernel, Shape

Family = tuple[object, ...]
Point = tuple[float, float]


def family(kernel: Kernel) -> Family:
    """What a kernel shares with its cuts: everything but the numbers of channels.

    Channels are dimension 1 of tensors of rank 4 (and of a convolution's weight dimension 0 and
    1), and the last dimension of those of rank 1 to 3 (of a dense weight the last two). Of a
    depthwise convolution the attribute ``groups``, which is its number of channels, is left out.
    """
    weights = kernel.op in ("nn.conv2d", "matmul")
    shapes = tuple(_spatial(s, weights and i == 1) for i, s in enumerate(kernel.shapes))
    epilogue = tuple(
        replace(step, operands=tuple(_spatial(s, False) for s in step.operands))
        for step in kernel.epilogue
    )
    depthwise = kernel.is_depthwise
    attrs = tuple(a for a in kernel.attrs if not (depthwise and a[0] == "groups"))
    return kernel.op, shapes, kernel.dtype, kernel.lane, attrs, epilogue, kernel.layout, depthwise


def row_family(kernel: Kernel) -> Family:
    """What a kernel shares with its bands: everything but the number of rows.

    Rows are dimension 2 of tensors of rank 4; padding above and below is left out, for a band in the
    middle has none.
    """
    weight = kernel.op == "nn.conv2d"
    shapes = tuple(s if weight and i == 1 else _any_rows(s) for i, s in enumerate(kernel.shapes))
    epilogue = tuple(
        replace(step, operands=tuple(map(_any_rows, step.operands))) for step in kernel.epilogue
    )
    attrs = tuple(
        (key, (value[1], value[3]) if key == "padding" else value)  # type: ignore[index]
        for key, value in kernel.attrs
    )
    return "rows", kernel.op, shapes, kernel.dtype, kernel.lane, attrs, epilogue, kernel.layout


def _any_rows(shape: Shape) -> Shape:
    return (*shape[:2], -1, shape[3]) if len(shape) == 4 and shape[2] > 1 else shape


def _spatial(shape: Shape, weight: bool) -> Shape:
    """``shape`` with -1 for channels; a channel dimension of 1 broadcasts and stays."""
    rank = len(shape)
    if rank == 4:
        channels: tuple[int, ...] = (0, 1) if weight else (1,)
    else:
        channels = tuple(range(max(0, rank - 2), rank)) if weight else (rank - 1,)
    return tuple(-1 if i in channels and dim != 1 else dim for i, dim in enumerate(shape))


def channels(kernel: Kernel) -> tuple[int, int]:
    """Channels that go in and that come out."""
    first, last = kernel.shapes[0], kernel.out_shape
    return _channels(first), _channels(last)


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) == 4 else shape[-1] if shape else 1


def size(kernel: Kernel) -> float:
    """What a kernel's time grows with: multiply-adds, or bytes where it has none."""
    return float(kernel.macs or kernel.bytes_moved)


@dataclass(frozen=True)
class Ladder:
    """Measured cuts of one kernel: (size, latency in us), by size, latencies never falling."""

    points: tuple[Point, ...]

    @staticmethod
    def of(points: Sequence[Point]) -> Ladder:
        """A ladder through ``points``; a latency below that of a smaller cut is raised to it."""
        merged: dict[float, list[float]] = {}
        for x, us in points:
            merged.setdefault(x, []).append(us)
        rungs: list[Point] = []
        for x in sorted(merged):
            us = sum(merged[x]) / len(merged[x])
            rungs.append((x, max(us, rungs[-1][1]) if rungs else us))
        return Ladder(tuple(rungs))

    def spans(self, x: float) -> bool:
        """Whether there are measured cuts on both sides of ``x``."""
        return self.points[0][0] <= x <= self.points[-1][0]

    def distance(self, x: float) -> float:
        """How far ``x`` lies outside the measured cuts, as the log of a ratio; 0 between them."""
        return max(0.0, log(self.points[0][0] / x), log(x / self.points[-1][0]))

    def at(self, x: float) -> float:
        """Latency at size ``x``: linear between the two nearest, outside in proportion."""
        points = self.points
        if not self.spans(x):
            near = points[0] if x < points[0][0] else points[-1]
            return near[1] * x / near[0]
        after = bisect_left(points, (x, float("-inf")))
        if points[after][0] == x:
            return points[after][1]
        (x0, us0), (x1, us1) = points[after - 1], points[after]
        return us0 + (us1 - us0) * (x - x0) / (x1 - x0)
