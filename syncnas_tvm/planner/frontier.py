"""Dynamic programming and beam search: the best beginnings of plans, region by region."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from syncnas_tvm.planner.base import UNTIL_DONE, Strategy, register_strategy
from syncnas_tvm.planner.space import Candidate
from syncnas_tvm.scorer import State

WIDEST = 4000
"""Beginnings that ``dp`` keeps at a region. Additive costs need about ten."""


class _Beginning(NamedTuple):
    """Decisions up to the region ``position``: which candidate the last one was, what came before it,
    and the state after it."""

    state: State
    position: int = 0
    choice: int = -1
    before: _Beginning | None = None


class _Frontier(Strategy):
    """Passes over the regions; a step extends one beginning by every decision for its next region.

    Of beginnings with equal keys (what they have in common is said at :meth:`Scorer.key`) the
    fastest one is kept, of the others the ``width`` best. Where none had to be dropped for the
    width the pass is exact, and the last one.
    """

    width: int

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        scorer, size = self.trial.scorer, len(self.space)
        self._at: list[dict[Hashable, _Beginning]] = [{} for _ in range(size + 1)]
        self._left = [_Beginning(scorer.start)]  # at the region that the pass is at
        self._position, self._cut = 0, False

    def step(self) -> bool:
        """See :meth:`Strategy.step`."""
        while not self._left:
            self._position += 1
            self._left = self._kept(self._at[self._position])
        if self._position == len(self.space):
            return self._end()
        here = self.space.candidates[self._position]
        self._extend(self._left.pop(), here)
        self.trial.decided(len(here))
        return True

    def _extend(self, beginning: _Beginning, here: Sequence[Candidate]) -> None:
        step, key = self.trial.scorer.step, self.trial.scorer.key
        for choice, candidate in enumerate(here):
            state = step(beginning.state, candidate)
            position = beginning.position + candidate.span
            after, found = self._at[position], key(state)
            known = after.get(found)
            if known is None or state[0] < known.state[0]:
                after[found] = _Beginning(state, position, choice, beginning)

    def _kept(self, at: dict[Hashable, _Beginning]) -> list[_Beginning]:
        """The beginnings of ``at`` to go on with, taken out of it; the first one is at the end."""
        kept, end = list(at.values()), self.trial.scorer.end
        at.clear()
        if len(kept) > self.width:
            kept = sorted(kept, key=lambda b: end(b.state))[: self.width]
            self._cut = True
        return kept[::-1]

    def _end(self) -> bool:
        """Offer the best plan of a pass, and begin a wider one where this one was not exact."""
        end = self.trial.scorer.end
        self.trial.offer(self._plan(min(self._left, key=lambda b: end(b.state))))
        self.trial.complete = not self._cut
        if self._cut and self._widen():
            _Frontier.begin(self)
            return True
        return False

    def _widen(self) -> bool:
        """Prepare for the next pass; False where this was the widest."""
        return False

    def _plan(self, beginning: _Beginning) -> list[Candidate]:
        plan: list[Candidate] = []
        while beginning.before is not None:
            plan.append(self.space.candidates[beginning.before.position][beginning.choice])
            beginning = beginning.before
        return plan[::-1]

    def save(self) -> Any:
        """Beginnings as a tree; states are computed again from the decisions."""
        numbers: dict[int, int] = {}
        tree: list[tuple[int, int]] = []  # before, choice

        def number(beginning: _Beginning) -> int:
            if id(beginning) not in numbers:
                before = number(beginning.before) if beginning.before else -1
                numbers[id(beginning)] = len(tree)
                tree.append((before, beginning.choice))
            return numbers[id(beginning)]

        left = [number(b) for b in self._left]
        at = [[number(b) for b in here.values()] for here in self._at]
        return [self.width, self._position, self._cut, tree, left, at]

    def load(self, memory: Any) -> None:
        """See :meth:`Strategy.load`."""
        self.width, self._position, self._cut, tree, left, at = memory
        scorer, made = self.trial.scorer, list[_Beginning]()
        for number, choice in tree:
            if number < 0:
                made.append(_Beginning(scorer.start))
                continue
            before = made[number]
            candidate = self.space.candidates[before.position][choice]
            state = scorer.step(before.state, candidate)
            made.append(_Beginning(state, before.position + candidate.span, choice, before))
        self._left = [made[number] for number in left]
        self._at = [{scorer.key(made[n].state): made[n] for n in here} for here in at]


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
    usual_budget = UNTIL_DONE


@register_strategy
class Beam(_Frontier):
    """Beam search in wider and wider passes, from 1 beginning at a region on, until one is exact."""

    name = "beam"

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        self.width = 1
        super().begin()

    def _widen(self) -> bool:
        self.width *= 4
        return True
