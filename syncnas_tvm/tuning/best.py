"""Which of a workload's measured tilings counts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from syncnas_tvm.tuning.record_files import Record

Sampled = tuple[int, ...]
MARGIN = 0.02
"""A tiling takes the rule's place where it is faster by more than what measurements differ by."""


def measured(records: Sequence[Record]) -> list[tuple[Sampled, float]]:
    """Tilings and their median seconds in the order of the measurements, without those that failed."""
    return [(r.sampled, median(r.seconds)) for r in records if not r.failed]


def comparison(times: Sequence[tuple[Sampled, float]], own: Sampled) -> dict[Sampled, float]:
    """The tilings that were last measured together with the rule's ``own``; empty without that.

    The rule's own is measured first, and again, together with the best, in the end: what was measured
    before its last record is not compared with it.
    """
    starts = [i for i, (tiling, _) in enumerate(times) if tiling == own]
    return dict(times[starts[-1] :]) if starts else {}


def is_compared(times: Sequence[tuple[Sampled, float]], own: Sampled) -> bool:
    """Whether all that was measured has been compared with the rule's own once more."""
    starts = [i for i, (tiling, _) in enumerate(times) if tiling == own]
    before = {tiling for tiling, _ in times[: starts[-1]]} if starts else set()
    return len(starts) > 1 and {tiling for tiling, _ in times[starts[-1] :]} <= before


def best(seconds: dict[Sampled, float], own: Sampled) -> Sampled:
    """The fastest of a comparison; the rule's own where nothing is clearly faster."""
    fastest = min(seconds, key=lambda tiling: seconds[tiling])
    return fastest if seconds[fastest] < (1 - MARGIN) * seconds[own] else own


def is_refined(records: Sequence[Record]) -> bool:
    """Whether another tiling than the rule's own, which is the first record, is the best."""
    seconds = comparison(measured(records), records[0].sampled) if records else {}
    return bool(seconds) and best(seconds, records[0].sampled) != records[0].sampled


def compiled_seconds(records: Sequence[Record]) -> tuple[float, float] | None:
    """Seconds of what a compile takes, and their standard deviation; None where nothing ran.

    The first record is the rule's own.
    """
    times = measured(records)
    if not times:
        return None
    own = records[0].sampled
    seconds = comparison(times, own)
    chosen = best(seconds, own) if seconds else min(times, key=lambda item: item[1])[0]
    found = [s for tiling, s in times if tiling == chosen]
    middle = seconds.get(chosen, found[-1])
    return middle, float(max(found) - min(found)) / 2
