"""Exhaustive search: every plan there is, for small spaces."""

from __future__ import annotations

from typing import Any

from syncnas_tvm.errors import InputError
from syncnas_tvm.planner.base import UNTIL_DONE, Strategy, register_strategy

MOST_PLANS = 1_000_000
"""About half a minute."""


@register_strategy
class Exhaustive(Strategy):
    """Evaluates every plan, in the order of :meth:`Space.plan_at`.

    Raises InputError where there are more than a million.
    """

    name = "exhaustive"
    usual_budget = UNTIL_DONE

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        count = self.space.count()
        if count > MOST_PLANS:
            raise InputError(
                f"strategy exhaustive: there are {count:.3g} plans, more than {MOST_PLANS:,}; take"
                " --strategy dp, which finds the best of additive costs, or mcts"
            )
        self._count, self._next = count, 0

    def step(self) -> bool:
        """Evaluate the next plan."""
        if self._next < self._count:
            self.trial(self.space.plan_at(self._next))
            self._next += 1
        self.trial.complete = self._next == self._count
        return not self.trial.complete

    def save(self) -> Any:
        """See :meth:`Strategy.save`."""
        return self._next

    def load(self, memory: Any) -> None:
        """See :meth:`Strategy.load`."""
        self._next = int(memory)
