"""Greedy search: from the best of a few simple plans, change one run of regions at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.base import Strategy, Trial, register_strategy
from syncnas_tvm.planner.space import Candidate, Space

Run = tuple[int, tuple[Candidate, ...]]
"""Consecutive candidates, with the region where the first one starts."""


@register_strategy
class Greedy(Strategy):
    """Local search by runs: give all regions of a run the same decision, keep what is faster.

    Single regions would not do: between two transfers a lane pays off only over several. Where
    no change helps, and budget is left, it starts again from a random plan.
    """

    name = "greedy"

    def search(self, space: Space, trial: Trial) -> None:
        """See :meth:`Strategy.search`."""
        rng = random.Random(self.seed)
        moves = list(runs(space))
        trial(fixed.split_all(space, trial))
        improve(space, trial, trial.best, moves, rng)
        while trial.evaluations < space.count():
            improve(space, trial, random_plan(space, rng), moves, rng)


def improve(
    space: Space,
    trial: Trial,
    start: Sequence[Candidate],
    moves: list[Run],
    rng: random.Random,
) -> tuple[Candidate, ...]:
    """``start``, changed by one of ``moves`` at a time until none makes it faster."""
    best, best_us = tuple(start), trial(start)
    improved = True
    while improved:
        improved = False
        rng.shuffle(moves)
        for run in moves:
            changed = splice(space, best, run)
            if changed == best:
                continue
            us = trial(changed)
            if us < best_us:
                best, best_us, improved = changed, us, True
    return best


def runs(space: Space) -> Iterator[Run]:
    """Every run of candidates of one label (same rule, same parameters), with its start."""
    for start in range(len(space)):
        for first in space.candidates[start]:
            run, position = [first], start + first.span
            yield start, (first,)
            while position < len(space):
                label = first.label
                after = next((c for c in space.candidates[position] if c.label == label), None)
                if after is None:
                    break
                run.append(after)
                position += after.span
                yield start, tuple(run)


def splice(space: Space, plan: Sequence[Candidate], change: Run) -> tuple[Candidate, ...]:
    """``plan`` with ``change`` put in; what it cuts in two is filled with single regions."""
    start, run = change
    end = start + sum(candidate.span for candidate in run)
    result: list[Candidate] = []
    position = 0
    for candidate in plan:
        stop = position + candidate.span
        if stop <= start or position >= end:
            result.append(candidate)
        else:
            result.extend(space.single(i)[0] for i in range(position, min(start, stop)))
            if position <= start:
                result.extend(run)
            result.extend(space.single(i)[0] for i in range(max(end, position), stop))
        position = stop
    return tuple(result)


def random_plan(space: Space, rng: random.Random, start: int = 0) -> tuple[Candidate, ...]:
    """A plan whose every decision is drawn at random."""
    plan: list[Candidate] = []
    while start < len(space):
        plan.append(rng.choice(space.candidates[start]))
        start += plan[-1].span
    return tuple(plan)
