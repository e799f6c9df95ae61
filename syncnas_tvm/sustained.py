"""The latency of a model that runs without a pause: what is left of it once the chip is hot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_WINDOWS = 30  # points of the curve
_SHORTEST_S = 1.0
_UNLIMITED = 1_000_000_000


@dataclass(frozen=True)
class Window:
    """A stretch of a sustained run: ``start_s`` after its begin, ``celsius`` (-1: not known) at its end."""

    start_s: float
    runs: int
    median_us: float
    p90_us: float
    celsius: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a field per attribute."""
        return asdict(self)


def sustained_curve(
    measure: Callable[[int, float], Sequence[float]], celsius: Callable[[], float], seconds: float
) -> list[Window]:
    """Run for ``seconds``; ``measure(runs, seconds)`` gives the latencies of a stretch."""
    length_s = max(_SHORTEST_S, seconds / _WINDOWS)
    begin = time.monotonic()
    windows: list[Window] = []
    while (start_s := time.monotonic() - begin) < seconds:
        latencies_us = measure(_UNLIMITED, min(length_s, seconds - start_s))
        median, high = np.percentile(latencies_us, [50, 90])
        windows.append(Window(start_s, len(latencies_us), float(median), float(high), celsius()))
    return windows
