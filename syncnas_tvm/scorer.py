"""What every way of scoring plans offers: a latency, whole or decision by decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from syncnas_tvm.timeline import Timeline

if TYPE_CHECKING:
    from syncnas_tvm.planner.space import Candidate

State = tuple[Any, ...]
"""What the beginning of a plan leaves behind. Its first entry is the clock in microseconds."""


class Scorer(ABC):
    """Predicts the latency of plans.

    A plan is scored from left to right: :attr:`start`, a :meth:`step` per decision, :meth:`end`.
    Two states with equal :meth:`key` at the same region have the same future, but for their
    clocks: whatever follows takes as long after either of them.
    """

    start: State

    @abstractmethod
    def step(self, state: State, candidate: Candidate) -> State:
        """The state when ``candidate`` has been decided after ``state``."""

    @abstractmethod
    def end(self, state: State) -> float:
        """Latency in microseconds of a plan that ends with ``state``."""

    @abstractmethod
    def key(self, state: State) -> Hashable:
        """All of ``state`` that matters for what follows, its clock left out."""

    @abstractmethod
    def timeline(self, candidates: Sequence[Candidate]) -> Timeline:
        """The plan's predicted timeline; its latency is :meth:`score`'s."""

    def score(self, candidates: Sequence[Candidate]) -> float:
        """Predicted latency in microseconds of candidates that cover all regions, in order."""
        state, step = self.start, self.step
        for candidate in candidates:
            state = step(state, candidate)
        return self.end(state)
