"""What search strategies share: the budget, the book-keeping, the abstract class, the registry."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from syncnas_tvm.errors import InputError
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.space import Candidate, Space, plan_of
from syncnas_tvm.scorer import Scorer
from syncnas_tvm.work import LANES


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


DEFAULT_BUDGET = Budget(evaluations=10_000)
"""A second or two for a network of 20 regions, less where the best plan is proven before."""
UNTIL_DONE = Budget(evaluations=10**9)
"""For strategies that end by themselves, and know nothing before they do."""


@dataclass(frozen=True)
class SearchResult:
    """The best plan of a search. ``split`` is the best that uses both lanes, with its score
    ``split_us``: empty and None where none was tried. ``complete`` says that no plan is better: all
    were tried or ruled out. ``evaluations`` and ``seconds`` include those of a search that this one
    continued."""

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
    """One search's evaluations: counts them, keeps the best, ends the search at its budget.

    An evaluation is a whole plan, or as many single decisions as the model has regions.
    """

    def __init__(self, space: Space, scorer: Scorer, budget: Budget) -> None:
        self.space, self.scorer, self.budget = space, scorer, budget
        self.started = time.monotonic()
        self.evaluations = self.earlier = self.decisions = 0
        self.earlier_seconds = 0.0
        self.best: tuple[Candidate, ...] = ()
        self.split: tuple[Candidate, ...] = ()
        self.best_us = self.split_us = float("inf")
        self.complete = False

    def seed(self) -> None:
        """Score each lane alone, whatever the budget, so that no result is worse than these."""
        for lane in LANES:
            candidates = fixed.place(self.space, lane)
            if candidates:
                self.evaluations += 1
                self.offer(candidates)
        if not self.best:
            self.evaluations += 1
            self.offer(fixed.first(self.space))

    def __call__(self, candidates: Sequence[Candidate]) -> float:
        """Evaluate ``candidates``; raises OutOfBudget instead when the budget is used up."""
        self.check()
        us = self.offer(candidates)
        self.evaluations += 1
        return us

    def decided(self, count: int) -> None:
        """Note that ``count`` single decisions were scored; raises OutOfBudget as calls do."""
        self.decisions += count
        whole, self.decisions = divmod(self.decisions, max(len(self.space), 1))
        self.evaluations += whole
        self.check()

    def check(self) -> None:
        """Raise OutOfBudget when the budget is used up."""
        limit = self.budget
        if limit.evaluations is not None and self.evaluations - self.earlier >= limit.evaluations:
            raise OutOfBudget
        if limit.seconds is not None and time.monotonic() - self.started >= limit.seconds:
            raise OutOfBudget

    def offer(self, candidates: Sequence[Candidate]) -> float:
        """The score of ``candidates``, which become the best where they are; not counted."""
        us = self.scorer.score(candidates)
        if us < self.best_us:
            self.best, self.best_us = tuple(candidates), us
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
            seconds=self.earlier_seconds + time.monotonic() - self.started,
            split=self.split,
            split_us=None if self.split_us == float("inf") else self.split_us,
            complete=self.complete,
        )


class Strategy(ABC):
    """A way to search a decision space, in steps.

    Subclasses implement :meth:`step`, :meth:`begin` where they need something for it, and
    :meth:`save` and :meth:`load` with what they know between two steps. ``self.rng`` makes every
    random choice, so equal seeds and budgets of evaluations give equal plans.
    """

    name = ""
    usual_budget = DEFAULT_BUDGET
    """What a compile gives it where nothing else is asked for."""
    space: Space
    trial: Trial
    rng: random.Random

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def run(
        self,
        space: Space,
        scorer: Scorer,
        budget: Budget,
        state: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """The best plan found within ``budget``; never worse than a lane alone.

        ``state`` is another search's :meth:`state`, on the same space: its best plans are kept, and
        one of the same strategy and seed is continued, ``budget`` being for what is still to come.
        Ctrl-C ends the search early and returns the best so far (unless nothing is scored yet).
        """
        self.space, self.trial = space, Trial(space, scorer, budget)
        self.rng = random.Random(self.seed)
        self.trial.seed()
        with suppress(OutOfBudget, KeyboardInterrupt):
            self.begin()
            if state is not None:
                self._resume(state)
            while not self.trial.complete:
                self.trial.check()
                if not self.step():
                    break
        return self.trial.result()

    def state(self) -> dict[str, Any]:
        """All that the search knows, as a JSON object that :meth:`run` continues from."""
        trial = self.trial
        return {
            "strategy": self.name,
            "seed": self.seed,
            "evaluations": trial.evaluations,
            "decisions": trial.decisions,
            "seconds": trial.result().seconds,
            "score_us": trial.best_us,
            "complete": trial.complete,
            "plan": plan_of(trial.best).to_json(),
            "split": plan_of(trial.split).to_json() if trial.split else None,
            "rng": self.rng.getstate(),
            "memory": self.save(),
        }

    def begin(self) -> None:  # noqa: B027  (not every strategy has something to do)
        """Prepare for the first :meth:`step`, without an evaluation."""

    @abstractmethod
    def step(self) -> bool:
        """Evaluate one plan or a few with ``self.trial``, which keeps the best.

        False when nothing is left to try. What a step changes for the next one it changes after its
        last evaluation, which may raise OutOfBudget.
        """

    def save(self) -> Any:
        """What :meth:`load` needs to go on from here, as JSON; the best plans are kept anyway."""
        return None

    def load(self, memory: Any) -> None:  # noqa: B027
        """Go on from what :meth:`save` gave; called after :meth:`begin`."""

    def _resume(self, state: Mapping[str, Any]) -> None:
        trial = self.trial
        trial.evaluations = trial.earlier = int(state["evaluations"])
        trial.decisions = int(state["decisions"])
        trial.earlier_seconds = float(state["seconds"])
        for plan in (state["plan"], state["split"]):
            if plan is not None:
                trial.offer(self.space.match(Plan.from_json(plan)))
        same_times = trial.best_us == state["score_us"]
        if same_times and (state["strategy"], state["seed"]) == (self.name, self.seed):
            trial.complete = bool(state["complete"])
            version, numbers, gauss = state["rng"]
            self.rng.setstate((version, tuple(numbers), gauss))
            self.load(state["memory"])


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
