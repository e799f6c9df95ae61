"""Which decisions are likely to be in a good plan, by a glance at each of them alone."""

from __future__ import annotations

from syncnas_tvm.planner.space import Space
from syncnas_tvm.scorer import Scorer


def ranking(space: Space, scorer: Scorer) -> tuple[tuple[int, ...], ...]:
    """For each region the indices of its candidates, the likeliest first.

    A candidate's own cost is what a second one like it adds behind a first one: what it costs in a
    run of its like, changes of lane left out. They are ranked by that plus the least that the
    regions behind it cost by the same measure.
    """
    rest = [0.0] * (len(space) + 1)
    ranked: list[tuple[int, ...]] = []
    for position in reversed(range(len(space))):
        costs = []
        for candidate in space.candidates[position]:
            first = scorer.step(scorer.start, candidate)
            second = scorer.step(first, candidate)
            own_us = scorer.end(second) - scorer.end(first)
            costs.append(own_us + rest[position + candidate.span])
        rest[position] = min(costs)
        ranked.append(tuple(sorted(range(len(costs)), key=costs.__getitem__)))
    return tuple(reversed(ranked))
