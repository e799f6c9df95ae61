"""A worker: asks the study for strategies, evaluates them one after another, tells the rewards."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from syncnas_tvm.errors import SyncNASError, error_line
from syncnas_tvm.nas.branched import Sync
from syncnas_tvm.nas.sampler import (
    ERROR,
    FAILURE,
    INTERRUPTION,
    Exhausted,
    History,
    choices_of,
    parameter_names,
)
from syncnas_tvm.nas.strategy import SyncStrategy
from syncnas_tvm.nas.study import fail_stale, heartbeat

GRACE_BEATS = 6
"""A worker that misses so many heartbeats is taken for dead."""
FAILURES_IN_A_ROW = 3
"""Where so many strategies fail, and none succeeds between them, the fault is not theirs."""


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: the reward to maximise, and what else is worth keeping (JSON)."""

    reward: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether the strategy fits the budget; nothing was trained where it does not."""
        return bool(self.facts.get("feasible", True))


Evaluate = Callable[[SyncStrategy], Outcome]


class Worker:
    """Evaluates strategies until the study has ``trials`` finished ones, or no strategy is left.

    Workers share nothing but the study. One that has nothing to begin waits for the others, and takes
    over the strategy of one that dies. An error of an evaluation that the user can act on ends the
    worker, as an interruption does, and is no failure of the strategy. Any other error is noted in
    the trial, which another attempt may follow; where strategy after strategy fails, it raises
    SyncNASError.
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
        self._failing: set[SyncStrategy] = set()

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
            own = isinstance(error, Exception) and not isinstance(error, SyncNASError)
            text = f"{type(error).__name__}: {error_line(error)}"
            if isinstance(error, KeyboardInterrupt):
                text = "interrupted"
            self._tell(trial, {FAILURE: ERROR if own else INTERRUPTION, "error": text})
            if not own:
                raise
            traceback.print_exc()
            self._failing.add(strategy)
            if len(self._failing) == FAILURES_IN_A_ROW:
                raise SyncNASError(
                    f"{FAILURES_IN_A_ROW} strategies in a row failed, the last with {text};"
                    " correct what is wrong, then the same command goes on"
                ) from error
            return 0
        if outcome.feasible:
            self._failing.clear()
        return self._tell(trial, outcome.facts, outcome.reward)

    def _tell(
        self, trial: optuna.Trial, attributes: Mapping[str, Any], reward: float | None = None
    ) -> int:
        """End the trial, as failed where it has no reward; returns how many evaluations it finished."""
        try:
            for key, value in attributes.items():
                trial.set_user_attr(key, value)
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
        waiting = any(t.state == TrialState.WAITING for t in trials)
        left = waiting or History.of(trials, self.stages).wanted(self.stages, 0) is not None
        return done, running, left
