"""The strategy search as an Optuna sampler: many workers, one storage, no strategy twice."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from syncnas_tvm.nas.branched import Sync
from syncnas_tvm.nas.strategy import KINDS, SyncStrategy
from syncnas_tvm.nas.tree import StrategyTree, rebuilt

CLAIM = "syncnas:claim"
FAILURE = "syncnas:failure"
"""Attribute of a failed trial: why it has no reward. Without it the evaluation itself raised."""
ERROR, DEATH, INTERRUPTION = "error", "death", "interruption"
LIMITS = {ERROR: 3, DEATH: 20}
"""A strategy whose evaluation failed so often for that reason is given up.

A worker may die for reasons of its own, as a preempted job does, or of the strategy, which takes too
much memory: so many deaths of the same strategy are no chance. Interruptions are nobody's fault.
"""


class Exhausted(Exception):
    """Raised where no strategy is left to evaluate."""


def choices_of(stages: int) -> list[tuple[Sync, ...]]:
    """How each stage may end."""
    early: tuple[Sync, ...] = ("n", *KINDS)
    return [early] * (stages - 1) + [KINDS]


def parameter_names(stages: int) -> list[str]:
    """A trial's parameters: ``sync0``, ``sync1``, ..., one per stage."""
    return [f"sync{s}" for s in range(stages)]


def distributions(stages: int) -> dict[str, BaseDistribution]:
    """The search space of a study."""
    pairs = zip(parameter_names(stages), choices_of(stages), strict=True)
    return {name: CategoricalDistribution(choices) for name, choices in pairs}


def parameters(strategy: SyncStrategy) -> dict[str, Any]:
    """The parameters of a trial that evaluates ``strategy``."""
    return dict(zip(parameter_names(len(strategy.kinds)), strategy.kinds, strict=True))


@dataclass
class History:
    """What the trials of a study say: rewards, strategies in evaluation, and why which have failed.

    ``ends`` of trainings that were not cut short: when, and whether with a reward.
    """

    finished: list[tuple[SyncStrategy, float]] = field(default_factory=list)
    running: set[SyncStrategy] = field(default_factory=set)
    failed: dict[SyncStrategy, list[str]] = field(default_factory=dict)
    ends: list[tuple[datetime, bool]] = field(default_factory=list)

    @staticmethod
    def of(trials: Sequence[FrozenTrial], stages: int, own: int | None = None) -> History:
        """Of all trials but the one numbered ``own``."""
        history = History()
        for trial in trials:
            strategy = strategy_of(trial, stages)
            if strategy is None or trial.number == own:
                continue
            ended = trial.datetime_complete or datetime.min
            if trial.state == TrialState.COMPLETE and trial.values:
                history.finished.append((strategy, float(trial.values[0])))
                if trial.user_attrs.get("feasible", True):
                    history.ends.append((ended, True))
            elif trial.state == TrialState.FAIL:
                why = trial.user_attrs.get(FAILURE, ERROR)
                history.failed.setdefault(strategy, []).append(why)
                if why == ERROR:
                    history.ends.append((ended, False))
            else:
                history.running.add(strategy)
        return history

    @property
    def given_up(self) -> list[SyncStrategy]:
        """Strategies that failed too often for the same reason."""
        return [
            strategy
            for strategy, reasons in self.failed.items()
            if any(reasons.count(why) >= limit for why, limit in LIMITS.items())
        ]

    def wanted(self, stages: int, seed: int) -> SyncStrategy | None:
        """The strategy to evaluate next; None where none is left.

        First come those that were interrupted, which go on from their checkpoints. One that failed has to
        wait until another training has succeeded, or nothing else is left: what makes all of them fail
        is not to be counted as its fault.
        """
        busy = {s for s, _ in self.finished} | self.running | set(self.given_up)
        again = [s for s in self.failed if s not in busy]
        succeeded = max(self.ends)[1] if self.ends else False
        first = [s for s in again if succeeded or self.failed[s][-1] != ERROR]
        return next(iter(first), None) or self._tree(stages, seed).ask() or next(iter(again), None)

    def _tree(self, stages: int, seed: int) -> StrategyTree:
        """The tree of this history; strategies that are given up have no reward."""
        tree = rebuilt(stages, seed, self.finished, self.running | set(self.failed))
        for strategy in self.given_up:
            tree.tell(strategy, 0.0)
        return tree


def strategy_of(trial: FrozenTrial, stages: int) -> SyncStrategy | None:
    """The strategy that a trial evaluates: as claimed, or by its parameters."""
    name = trial.system_attrs.get(CLAIM)
    if name:
        return SyncStrategy.parse(name, stages)
    params = trial.system_attrs.get("fixed_params", trial.params)
    kinds = [params.get(name) for name in parameter_names(stages)]
    if None in kinds:
        return None
    return SyncStrategy(tuple(cast("list[Sync]", kinds)))


class StrategySampler(BaseSampler):
    """Suggests strategies by :class:`StrategyTree`, which it rebuilds from the study's trials.

    So the study is all there is to keep: a search goes on after any interruption, on any machine, with
    any number of workers. Before a strategy is evaluated its trial claims it: the claim is written,
    then all others are read; who finds another claim of the same strategy withdraws. Of two workers at
    least one reads after the other has written, so never do both go on. Raises Exhausted where
    nothing is left.
    """

    def __init__(self, stages: int, seed: int = 0) -> None:
        self.stages, self.seed = stages, seed
        self._rng = random.Random()
        self._independent = RandomSampler(seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See the base class."""
        return distributions(self.stages)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See the base class."""
        if "fixed_params" in trial.system_attrs:  # enqueued by hand
            return {}
        storage, own = study._storage, trial._trial_id
        while True:
            history = self._history(study, trial)
            wanted = history.wanted(self.stages, self.seed + trial.number)
            if wanted is None:
                storage.set_trial_state_values(own, TrialState.FAIL)
                raise Exhausted("every strategy was evaluated, or is being evaluated")
            storage.set_trial_system_attr(own, CLAIM, str(wanted))
            again = self._history(study, trial)
            if wanted not in again.running and wanted not in {s for s, _ in again.finished}:
                return parameters(wanted)
            storage.set_trial_system_attr(own, CLAIM, "")
            time.sleep(self._rng.uniform(0.01, 0.1))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See the base class; for parameters that an objective adds."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """See the base class."""
        self._rng = random.Random()

    def _history(self, study: Study, trial: FrozenTrial) -> History:
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        return History.of(trials, self.stages, trial.number)
