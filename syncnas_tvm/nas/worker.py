"""A worker: asks the study for strategies, evaluates them one after another, tells the rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from syncnas_tvm.errors import SyncNASError, error_line
from syncnas_tvm.nas.branched import Sync
from syncnas_tvm.nas.sampler import Exhausted, History, choices_of, parameter_names
from syncnas_tvm.nas.strategy import SyncStrategy
from syncnas_tvm.nas.study import fail_stale, heartbeat

GRACE_BEATS = 6
"""A worker that misses so many heartbeats is taken for dead."""


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: the reward to maximise, and what else is worth keeping (JSON)."""

    reward: float
    facts: Mapping[str, Any] = field(default_factory=dict)


Evaluate = Callable[[SyncStrategy], Outcome]


class Worker:
    """Evaluates strategies until the study has ``trials`` finished ones, or no strategy is left.

    Workers share nothing but the study. One that has nothing to begin waits for the others, and takes
    over the strategy of one that dies. An error of an evaluation that the user can act on ends the
    worker; any other is noted in the trial, which another attempt may follow.
    """

    def __init__(
        self,
        study: optuna.Study,
        evaluate: Evaluate,
        stages: int,
        trials: int,
        *,
        heartbeat_s: float = 10.0,
        poll_s: float = 1.0,
    ) -> None:
        self.study, self.evaluate, self.stages, self.trials = study, evaluate, stages, trials
        self.heartbeat_s, self.poll_s = heartbeat_s, poll_s

    def run(self) -> int:
        """Work; returns how many evaluations this worker finished."""
        finished = 0
        while True:
            fail_stale(self.study, GRACE_BEATS * self.heartbeat_s)
            done, running, left = self._count()
            if done >= self.trials or not (left or running):
                return finished
            if done + running >= self.trials or not left:
                time.sleep(self.poll_s)
                continue
            trial = self.study.ask()
            with heartbeat(self.study, trial._trial_id, self.heartbeat_s), suppress(Exhausted):
                finished += self._one(trial)

    def _one(self, trial: optuna.Trial) -> int:
        names, choices = parameter_names(self.stages), choices_of(self.stages)
        kinds = [trial.suggest_categorical(n, c) for n, c in zip(names, choices, strict=True)]
        strategy = SyncStrategy(tuple(cast("list[Sync]", kinds)))
        trial.set_user_attr("strategy", str(strategy))
        try:
            outcome = self.evaluate(strategy)
        except BaseException as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error_line(error)}")
            self._tell(trial, None)
            if isinstance(error, SyncNASError) or not isinstance(error, Exception):
                raise
            return 0
        for key, value in outcome.facts.items():
            trial.set_user_attr(key, value)
        return self._tell(trial, outcome.reward)

    def _tell(self, trial: optuna.Trial, reward: float | None) -> int:
        try:
            if reward is None:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, reward)
        except (UpdateFinishedTrialError, ValueError):
            return 0  # taken for dead meanwhile: another worker has the strategy
        return 0 if reward is None else 1

    def _count(self) -> tuple[int, int, bool]:
        """Finished trials, those under way, and whether there is a strategy to begin."""
        trials = self.study.get_trials(deepcopy=False)
        done = sum(t.state == TrialState.COMPLETE for t in trials)
        running = sum(t.state == TrialState.RUNNING for t in trials)
        history = History.of(trials, self.stages)
        waiting = any(t.state == TrialState.WAITING for t in trials)
        left = waiting or history.to_retry() or not history.tree(self.stages, 0).exhausted
        return done, running, bool(left)
