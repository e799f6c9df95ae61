"""Timing a loaded model in calls of a bounded length."""

from __future__ import annotations

from collections.abc import Callable


def timed_in_calls(
    measure: Callable[[int, float], list[float]],
    repeat: int,
    warmup: int,
    seconds: float,
    call_s: float,
) -> list[float]:
    """Latencies of ``repeat`` runs, after ``warmup`` others; with ``seconds`` none begins after that.

    ``measure(runs, seconds)`` is one call of the runner. It is asked for ``call_s`` seconds at most,
    so that between two calls Ctrl-C gets a chance and a device that has gone is noticed.
    """
    if warmup:
        measure(warmup, 0.0)
    latencies: list[float] = []
    while len(latencies) < repeat:
        latencies += measure(repeat - len(latencies), seconds or call_s)
        if seconds:
            break
    return latencies
