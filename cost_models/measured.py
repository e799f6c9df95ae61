"""What was measured on this machine, and what follows from it for kernels in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from syncnas_tvm.cost_models.base import CostModel, Microseconds, kind_of
from syncnas_tvm.cost_models.siblings import (
    Family,
    Ladder,
    Point,
    channels,
    family,
    row_family,
    size,
)
from syncnas_tvm.work import Kernel

BETWEEN_STD, OUTSIDE_STD, FALLBACK_STD = 0.08, 0.2, 0.4
"""Relative uncertainty of a latency between measured cuts, beyond them, and of a kernel that has
no measured cut at all."""

Line = tuple[Family, int, int]
"""A family, with the channels in or the channels out that its kernels share, or -1."""


@dataclass(frozen=True)
class Measurement:
    """Microseconds of one kernel, alone on its lane, and their standard deviation."""

    latency_us: float
    noise_us: float = 0.0


class MeasuredTable(CostModel):
    """A table of measurements that also answers for what was not measured.

    A measured kernel gets its own latency. One whose cuts were measured (same operator,
    attributes, epilogue, lane, type and spatial shape, other numbers of channels) gets one
    interpolated in multiply-adds (bytes where there are none), and so does a band of the rows of
    one that was measured. Any other gets ``fallback``'s,
    times the median of measured over predicted for its kind of kernel on its lane.
    """

    def __init__(self, fallback: CostModel) -> None:
        self.fallback = fallback
        self._entries: dict[Kernel, Measurement] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, kernel: object) -> bool:
        return kernel in self._entries

    @property
    def entries(self) -> dict[Kernel, Measurement]:
        """A copy of the table."""
        return dict(self._entries)

    def add(self, kernel: Kernel, latency_us: float, noise_us: float = 0.0) -> None:
        """Note a measurement, in place of an older one; raises ValueError unless it is a time."""
        if not (0.0 < latency_us < float("inf") and 0.0 <= noise_us < float("inf")):
            raise ValueError(f"not a latency: {latency_us} us, noise {noise_us} us")
        self._entries[kernel] = Measurement(latency_us, noise_us)
        for derived in ("_ladders", "_corrections"):
            self.__dict__.pop(derived, None)

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us, std_us = np.zeros(len(kernels)), np.zeros(len(kernels))
        unknown: list[int] = []
        for index, kernel in enumerate(kernels):
            found = self._entries.get(kernel) or self._between(kernel)
            if found is None:
                unknown.append(index)
            else:
                latency_us[index], std_us[index] = found.latency_us, found.noise_us
        if unknown:
            rest = [kernels[index] for index in unknown]
            predicted, spread = self.fallback.predict(rest)
            scale = np.array([self._correction(kernel) for kernel in rest])
            latency_us[unknown] = predicted * scale
            std_us[unknown] = np.maximum(spread * scale, FALLBACK_STD * predicted * scale)
        return latency_us, std_us

    @cached_property
    def _ladders(self) -> dict[Line, Ladder]:
        """Measured kernels by what they have in common with a kernel that lies between them."""
        points: dict[Line, list[Point]] = defaultdict(list)
        for kernel, measured in self._entries.items():
            for line in _lines(kernel):
                points[line].append((size(kernel), measured.latency_us))
        return {line: Ladder.of(found) for line, found in points.items()}

    @cached_property
    def _corrections(self) -> dict[tuple[str, ...], float]:
        """Median of measured over predicted by the fallback, per lane and kind, and per lane."""
        kernels = list(self._entries)
        predicted, _ = self.fallback.predict(kernels)
        ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for kernel, us in zip(kernels, predicted.tolist(), strict=True):
            if us > 0:
                ratio = self._entries[kernel].latency_us / us
                ratios[kernel.lane, kind_of(kernel)].append(ratio)
                ratios[kernel.lane,].append(ratio)
        return {key: float(np.median(values)) for key, values in ratios.items()}

    def _correction(self, kernel: Kernel) -> float:
        lane: tuple[str, ...] = (kernel.lane,)
        return self._corrections.get((*lane, kind_of(kernel)), self._corrections.get(lane, 1.0))

    def _between(self, kernel: Kernel) -> Measurement | None:
        """A latency from measured cuts of the same kernel, or from its nearest relatives."""
        known, x = self._ladders, size(kernel)
        ladders = [known[line] for line in _lines(kernel) if line in known]
        if not ladders:
            return None
        ladder = min(ladders, key=lambda found: found.distance(x))
        us = ladder.at(x)
        return Measurement(us, us * (BETWEEN_STD if ladder.spans(x) else OUTSIDE_STD))


def _lines(kernel: Kernel) -> tuple[Line, ...]:
    """Cuts of the output, cuts of the input, any kernel of the same family, and bands of rows."""
    kin, (into, out) = family(kernel), channels(kernel)
    return (kin, into, -1), (kin, -1, out), (kin, -1, -1), (row_family(kernel), into, out)
