"""What search strategies share: the budget, the book-keeping, the abstract class, the registry."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from syncnas_tvm.errors import InputError
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.space import Candidate, Space, plan_of
from syncnas_tvm.work import LANES

Score = Callable[[Sequence[Candidate]], float]
"""The predicted latency in microseconds of candidates that cover all regions, in order."""


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many evaluations, after so many seconds, or the first of both.

    A search with a budget of evaluations alone is deterministic.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.evaluations, self.seconds) if limit is not None]
        if not limits or min(limits) <= 0:
            raise InputError("a search needs a budget: evaluations or seconds, above zero")


@dataclass(frozen=True)
class SearchResult:
    """The best plan of a search. ``split`` is the best that uses both lanes, with its score
    ``split_us``: empty and None where none was tried. ``complete`` says that every plan there is was
    tried."""

    plan: Plan
    candidates: tuple[Candidate, ...]
    score_us: float
    evaluations: int
    seconds: float
    split: tuple[Candidate, ...] = ()
    split_us: float | None = None
    complete: bool = False


class OutOfBudget(Exception):
    """Raised inside a search to end it; never leaves :meth:`Strategy.run`."""


class Trial:
    """One search's evaluations: counts them, keeps the best, ends the search at its budget."""

    def __init__(self, score: Score, budget: Budget) -> None:
        self._score, self.budget = score, budget
        self.started = time.monotonic()
        self.evaluations = 0
        self.best: tuple[Candidate, ...] = ()
        self.split: tuple[Candidate, ...] = ()
        self.best_us = self.split_us = float("inf")
        self.single_us = float("inf")
        self.complete = False

    def seed(self, space: Space) -> None:
        """Score each lane alone, whatever the budget, so that no result is worse than these."""
        for lane in LANES:
            candidates = fixed.place(space, lane)
            if candidates:
                us = self._evaluate(candidates)
                self.single_us = min(self.single_us, us)
        if not self.best:
            self._evaluate(fixed.first(space))
            self.single_us = self.best_us

    def __call__(self, candidates: Sequence[Candidate]) -> float:
        """The score of ``candidates``; raises OutOfBudget instead when the budget is used up."""
        limit = self.budget
        if limit.evaluations is not None and self.evaluations >= limit.evaluations:
            raise OutOfBudget
        if limit.seconds is not None and time.monotonic() - self.started >= limit.seconds:
            raise OutOfBudget
        us = self._evaluate(candidates)
        if us < self.split_us and fixed.lane_of(candidates) is None:
            self.split, self.split_us = tuple(candidates), us
        return us

    def result(self) -> SearchResult:
        """The best so far."""
        return SearchResult(
            plan=plan_of(self.best),
            candidates=self.best,
            score_us=self.best_us,
            evaluations=self.evaluations,
            seconds=time.monotonic() - self.started,
            split=self.split,
            split_us=None if self.split_us == float("inf") else self.split_us,
            complete=self.complete,
        )

    def _evaluate(self, candidates: Sequence[Candidate]) -> float:
        us = self._score(candidates)
        self.evaluations += 1
        if us < self.best_us:
            self.best, self.best_us = tuple(candidates), us
        return us


class Strategy(ABC):
    """A way to search a decision space.

    Subclasses implement :meth:`search`; the seed makes every random choice, so equal seeds and
    budgets of evaluations give equal plans.
    """

    name = ""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def run(self, space: Space, score: Score, budget: Budget) -> SearchResult:
        """The best plan found within ``budget``; never worse than a lane alone.

        Ctrl-C ends the search early and returns the best so far (unless nothing is scored yet).
        """
        trial = Trial(score, budget)
        trial.seed(space)
        with suppress(OutOfBudget, KeyboardInterrupt):
            self.search(space, trial)
        return trial.result()

    @abstractmethod
    def search(self, space: Space, trial: Trial) -> None:
        """Call ``trial`` with plans until there is nothing left to try; it keeps the best."""


STRATEGIES: dict[str, type[Strategy]] = {}
Class = TypeVar("Class", bound=type[Strategy])


def register_strategy(cls: Class) -> Class:
    """Class decorator: makes a strategy known under its ``name``."""
    STRATEGIES[cls.name] = cls
    return cls


def strategy(name: str, seed: int = 0) -> Strategy:
    """The registered strategy ``name``; raises InputError naming those that there are."""
    if name not in STRATEGIES:
        raise InputError(f"unknown strategy '{name}'; take one of {', '.join(sorted(STRATEGIES))}")
    return STRATEGIES[name](seed)
