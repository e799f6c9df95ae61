"""Greedy search: from the best of a few simple plans, change one run of regions at a time."""

from __future__ import annotations

from typing import Any

from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.base import Strategy, register_strategy
from syncnas_tvm.planner.random_search import random_plan
from syncnas_tvm.planner.runs import Run, Runs
from syncnas_tvm.planner.space import Candidate, plan_of


@register_strategy
class Greedy(Strategy):
    """Local search by runs: give all regions of a run the same decision, keep what is faster.

    Where no change helps, and budget is left, it starts again from a random plan.
    """

    name = "greedy"

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        self._runs = Runs(self.space)
        self._moves = list(self._runs)
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
        changed = self._runs.splice(self._plan, move)
        if changed != self._plan:
            us = self.trial(changed)
            if us < self._plan_us:
                self._plan, self._plan_us, self._better = changed, us, True
        self._next += 1
