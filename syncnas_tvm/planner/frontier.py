"""Dynamic programming and beam search: the best beginnings of plans, region by region."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from syncnas_tvm.planner.base import Strategy, register_strategy
from syncnas_tvm.planner.space import Candidate
from syncnas_tvm.scorer import State

WIDEST = 4000
"""Beginnings that ``dp`` keeps at a region. Additive costs need about ten."""


class _Beginning(NamedTuple):
    """Decisions up to a region: the last one, what came before it, and the state after it."""

    state: State
    last: Candidate | None = None
    before: _Beginning | None = None


class _Frontier(Strategy):
    """One pass over the regions per step.

    Of beginnings with equal keys (what they have in common is said at :meth:`Scorer.key`) the
    fastest one is kept, of the others the ``width`` best. Where none had to be dropped for the
    width the pass is exact.
    """

    width: int

    def step(self) -> bool:
        """One pass; an exact one is the last."""
        cut = self._pass(self.width)
        self.trial.complete = not cut
        return cut and self._widen()

    def _widen(self) -> bool:
        """Prepare for the next pass; False where this was the widest."""
        return False

    def _pass(self, width: int) -> bool:
        """Offer the best plan of a pass; returns whether a beginning was dropped for the width."""
        scorer, trial, size = self.trial.scorer, self.trial, len(self.space)
        step, key, end = scorer.step, scorer.key, scorer.end
        at: list[dict[Hashable, _Beginning]] = [{} for _ in range(size + 1)]
        at[0][key(scorer.start)] = _Beginning(scorer.start)
        cut = False
        for position, here in enumerate(self.space.candidates):
            kept = list(at[position].values())
            if len(kept) > width:
                kept = sorted(kept, key=lambda b: end(b.state))[:width]
                cut = True
            for beginning in kept:
                for candidate in here:
                    state = step(beginning.state, candidate)
                    after, found = at[position + candidate.span], key(state)
                    known = after.get(found)
                    if known is None or state[0] < known.state[0]:
                        after[found] = _Beginning(state, candidate, beginning)
                trial.decided(len(here))
            at[position] = {}
        trial.offer(_plan(min(at[size].values(), key=lambda b: end(b.state))))
        return cut


def _plan(beginning: _Beginning) -> list[Candidate]:
    plan: list[Candidate] = []
    while beginning.before is not None and beginning.last is not None:
        plan.append(beginning.last)
        beginning = beginning.before
    return plan[::-1]


@register_strategy
class DP(_Frontier):
    """Dynamic programming (Bellman): exact where costs are additive, in cost modes ``additive``
    and ``study``.

    The state after a region is where the value is and what share of it is still to be exchanged.
    On a timeline it is also how far the GPU's queue lags behind, of which there are many: beyond
    4000 beginnings at a region the slowest are dropped, and the result is no longer proven.
    """

    name = "dp"
    width = WIDEST


@register_strategy
class Beam(_Frontier):
    """Beam search in wider and wider passes, from 1 beginning at a region on, until one is exact."""

    name = "beam"

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        self.width = 1

    def save(self) -> Any:
        """See :meth:`Strategy.save`."""
        return self.width

    def load(self, memory: Any) -> None:
        """See :meth:`Strategy.load`."""
        self.width = int(memory)

    def _widen(self) -> bool:
        self.width *= 4
        return True
