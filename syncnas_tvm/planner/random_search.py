"""Random search: what every other strategy has to beat."""

from __future__ import annotations

import random

from syncnas_tvm.planner.base import Strategy, register_strategy
from syncnas_tvm.planner.space import Candidate, Space


@register_strategy
class RandomSearch(Strategy):
    """Plans whose every decision is drawn at random, until the budget ends."""

    name = "random"

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        self._single = self.space.count() <= 1

    def step(self) -> bool:
        """Evaluate one plan; there is nothing to find where there is but one."""
        if self._single:
            return False
        self.trial(random_plan(self.space, self.rng))
        return True


def random_plan(space: Space, rng: random.Random) -> tuple[Candidate, ...]:
    """A plan whose every decision is drawn at random."""
    plan: list[Candidate] = []
    start = 0
    while start < len(space):
        plan.append(rng.choice(space.candidates[start]))
        start += plan[-1].span
    return tuple(plan)
