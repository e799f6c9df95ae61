"""How often a plan makes the lanes exchange data."""

from __future__ import annotations

from collections.abc import Sequence

from syncnas_tvm.planner import Candidate
from syncnas_tvm.simulator import CPU, GPU, SHARED, needs, where_after


def count_syncs(candidates: Sequence[Candidate]) -> int:
    """Points at which data moves between the lanes, the model's input and output included.

    A point counts once, whether data moves in one direction or in both.
    """
    syncs, where = 0, CPU
    for phase in (phase for candidate in candidates for phase in candidate.work.phases):
        need = needs(phase)
        if not need:
            continue
        if where == SHARED or need & ~where:
            syncs += 1
        where = where_after(phase)
    return syncs + (where in (SHARED, GPU))
