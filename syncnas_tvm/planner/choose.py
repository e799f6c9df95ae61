"""The planner's front door: the plan to compile, what it is predicted to cost, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.base import Budget, SearchResult, strategy
from syncnas_tvm.planner.cost_mode import CostMode, ModeName
from syncnas_tvm.planner.rows_first import rows_first
from syncnas_tvm.planner.space import Candidate, Space, plan_of
from syncnas_tvm.planner.state_file import StateFile
from syncnas_tvm.report import ms
from syncnas_tvm.scorer import Scorer
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Timeline
from syncnas_tvm.work import LANES, Lane

LEAST_GAIN = 0.01
"""A plan on both lanes must beat the better single lane by more than this share."""

Lanes = Literal["cpu", "gpu", "both"]


@dataclass(frozen=True)
class Choice:
    """A plan, and why it was chosen.

    ``split``: the best plan found that uses both lanes; this plan unless a lane alone was chosen,
    empty where there is none. ``latency_us``: predicted microseconds of ``cpu`` and ``gpu`` alone
    (where that lane can run the whole model) and of ``both``, which is ``split``. ``reason`` is one
    line.
    """

    plan: Plan
    candidates: tuple[Candidate, ...]
    split: tuple[Candidate, ...]
    latency_us: Mapping[str, float]
    timeline: Timeline
    reason: str
    search: SearchResult | None = None

    @property
    def lane(self) -> Lane | None:
        """The only lane that the plan uses; None where it uses both."""
        return fixed.lane_of(self.candidates)


def choose(
    space: Space,
    costs: TargetCosts,
    model: CostModel,
    search: str = "mcts",
    budget: Budget | None = None,
    seed: int = 0,
    lanes: Lanes = "both",
    cost_mode: ModeName = "timeline",
    sync_us: float | None = None,
    state_file: StateFile | None = None,
) -> Choice:
    """Search ``space`` for the fastest plan on ``lanes`` with the strategy named ``search``.

    ``budget``: by default the strategy's usual one. ``cost_mode`` and ``sync_us`` say what "fast"
    means, as in :class:`CostMode`. A search state in ``state_file`` is continued, and the search's
    own is written there, at an interruption too.
    In a plan that was found, each lane computes the rows that the other one reads first where that is
    predicted to pay. Where no plan beats the better single lane by more than 1 %, that lane alone is chosen.
    Raises PlanError when ``lanes`` is one lane that cannot run the whole model, InputError for an
    unknown strategy or cost mode, or a state of another search.
    """
    mode = CostMode(cost_mode, sync_us)
    simulator = mode.scorer(space, costs, model)
    if lanes != "both":
        candidates = fixed.single_lane(space, lanes)
        return _choice(simulator, space, candidates, f"{lanes} lane alone, as asked", None)
    searching = strategy(search, seed)
    state = state_file.load(space, mode) if state_file else None
    found = searching.run(space, simulator, budget or searching.usual_budget, state)
    if state_file:
        state_file.save(space, mode, searching.state())
    if mode.name == "timeline" and found.split:
        found = _rows_first(space, found, simulator, model)
    alone = _alone(simulator, space)
    if not alone:
        reason = f"both lanes: no lane can run the whole model; predicted at {ms(found.score_us)}"
        return _choice(simulator, space, found.candidates, reason, found)
    lane = min(alone, key=alone.__getitem__)
    best_us = alone[lane]
    if found.score_us < best_us * (1 - LEAST_GAIN) and fixed.lane_of(found.candidates) is None:
        reason = (
            f"both lanes: predicted at {ms(found.score_us)} against {ms(best_us)} on the"
            f" {lane} lane alone"
        )
        return _choice(simulator, space, found.candidates, reason, found)
    if found.split_us is not None:
        rest = f"the best split plan is predicted at {ms(found.split_us)} against {ms(best_us)}"
        if found.split_us < best_us:
            rest += ", less than 1 % faster"
    elif all(fixed.lane_of([candidate]) for candidate in space.all()):
        rest = "no region can be split between the lanes"
    else:
        rest = "the search ended before it had a plan on both lanes; give it more --evaluations"
    candidates = fixed.single_lane(space, lane)
    return _choice(simulator, space, candidates, f"{lane} lane alone: {rest}", found)


def choose_fixed(
    space: Space,
    costs: TargetCosts,
    model: CostModel,
    plan: Plan | None = None,
    cost_mode: ModeName = "timeline",
    sync_us: float | None = None,
) -> Choice:
    """The given ``plan``, or with None the plan that splits every region that can be split.

    Raises PlanError where ``plan`` does not fit ``space``.
    """
    given = () if plan is None else space.match(plan)
    simulator = CostMode(cost_mode, sync_us).scorer(space.including(given), costs, model)
    if plan is None:
        candidates = fixed.split_all(space, simulator.score)
        return _choice(simulator, space, candidates, "every region split, as asked", None)
    return _choice(simulator, space, given, "the plan that was given", None)


def _rows_first(
    space: Space, found: SearchResult, simulator: Simulator, model: CostModel
) -> SearchResult:
    """What was found, with rows computed first where that pays."""
    split = rows_first(space, found.split, simulator, model)
    split_us = simulator.score(split)
    found = replace(found, split=split, split_us=split_us)
    if split_us < found.score_us:
        found = replace(found, plan=plan_of(split), candidates=split, score_us=split_us)
    return found


def _choice(
    simulator: Scorer,
    space: Space,
    candidates: tuple[Candidate, ...],
    reason: str,
    found: SearchResult | None,
) -> Choice:
    latency_us: dict[str, float] = {str(k): us for k, us in _alone(simulator, space).items()}
    split = candidates if fixed.lane_of(candidates) is None else found.split if found else ()
    if split:
        latency_us["both"] = simulator.score(split)
    timeline = simulator.timeline(candidates)
    return Choice(plan_of(candidates), candidates, split, latency_us, timeline, reason, found)


def _alone(simulator: Scorer, space: Space) -> dict[Lane, float]:
    plans = {lane: fixed.place(space, lane) for lane in LANES}
    return {lane: simulator.score(plan) for lane, plan in plans.items() if plan is not None}
