"""Greedy search: from the best of a few simple plans, change one run of regions at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.base import Strategy, register_strategy
from syncnas_tvm.planner.random_search import random_plan
from syncnas_tvm.planner.space import Candidate, Space, plan_of

Run = tuple[int, tuple[Candidate, ...]]
"""Consecutive candidates, with the region where the first one starts."""


@register_strategy
class Greedy(Strategy):
    """Local search by runs: give all regions of a run the same decision, keep what is faster.

    Single regions would not do: between two transfers a lane pays off only over several. Where
    no change helps, and budget is left, it starts again from a random plan.
    """

    name = "greedy"

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        self._moves = list(runs(self.space))
        self._order = list(range(len(self._moves)))
        self._next = len(self._order)  # of the moves, in this order
        self._plan: tuple[Candidate, ...] = ()  # what they change; empty: start somewhere
        self._plan_us = 0.0
        self._better = False  # since the order was drawn
        self._started = False

    def step(self) -> bool:
        """Try one move, or start somewhere."""
        if not self._plan:
            if self._started and self.trial.evaluations >= self.space.count():
                return False
            self._start()
        elif self._next == len(self._order):
            self._plan = self._plan if self._better else ()
            self._shuffle()
        else:
            self._try(self._moves[self._order[self._next]])
        return True

    def save(self) -> Any:
        """See :meth:`Strategy.save`."""
        plan = plan_of(self._plan).to_json() if self._plan else None
        return [self._order, self._next, plan, self._plan_us, self._better, self._started]

    def load(self, memory: Any) -> None:
        """See :meth:`Strategy.load`."""
        self._order, self._next, plan, self._plan_us, self._better, self._started = memory
        self._plan = self.space.match(Plan.from_json(plan)) if plan else ()

    def _start(self) -> None:
        if self._started:
            plan = random_plan(self.space, self.rng)
        else:
            self.trial(fixed.split_all(self.space, self.trial))
            plan = self.trial.best
        self._plan_us = self.trial(plan)
        self._plan, self._started = plan, True
        self._shuffle()

    def _shuffle(self) -> None:
        self.rng.shuffle(self._order)
        self._next, self._better = 0, False

    def _try(self, move: Run) -> None:
        changed = splice(self.space, self._plan, move)
        if changed != self._plan:
            us = self.trial(changed)
            if us < self._plan_us:
                self._plan, self._plan_us, self._better = changed, us, True
        self._next += 1


def runs(space: Space) -> Iterator[Run]:
    """Every run of candidates of one label (same rule, same parameters), with its start."""
    by_label = [{c.label: c for c in reversed(here)} for here in space.candidates]
    for start, here in enumerate(space.candidates):
        for first in here:
            run, position = [first], start + first.span
            yield start, (first,)
            while position < len(space):
                after = by_label[position].get(first.label)
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
