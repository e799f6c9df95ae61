"""The decision space and the strategies that search it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import any_space, place, random_space, run, run_of, simulator, split

from syncnas_tvm.errors import InputError, PlanError
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.planner import (
    Budget,
    Candidate,
    Space,
    plan_of,
    single_lane,
    split_all,
    strategy,
)
from syncnas_tvm.planner.fixed import lane_of
from syncnas_tvm.planner.runs import Runs
from syncnas_tvm.work import Work


class TestSpace:
    def test_count_is_the_number_of_plans(self) -> None:
        space = random_space(1, regions=4, shares=1, runs=True)
        plans = list(space.plans())
        assert len(plans) == len(set(plans)) == space.count()
        for plan in plans:
            plan_of(plan).covers(space.regions)
        assert [space.plan_at(number) for number in range(space.count())] == plans

    def test_match_finds_the_candidates_of_a_plan(self) -> None:
        space = random_space(2, regions=4, runs=True)
        plan = next(p for p in space.plans() if any(c.span == 3 for c in p))
        assert space.match(plan_of(plan)) == plan

    def test_a_plan_may_decide_what_is_not_listed(self) -> None:
        space, work = random_space(2, regions=2), place("r0", "cpu", 1).work
        space = replace(space, unlisted=lambda decision: work)
        decision = Decision.of("r1", "ChannelSplit", gpu_share=0.123)
        plan = Plan((space.single(0)[0].decision, decision))
        first, second = space.match(plan)
        assert (first, second) == (space.single(0)[0], Candidate(decision, 1, work))
        assert second.work is work
        assert second not in space.all()
        wider = space.including([first, second])
        assert wider.match(plan) == (first, second)
        assert len(list(wider.all())) == len(list(space.all())) + 1
        assert list(wider.all())[-1] == second

    def test_what_a_rule_refuses_is_named(self) -> None:
        def refuse(decision: Decision) -> Work:
            raise PlanError("its share is too odd")

        space = replace(random_space(3, regions=1), unlisted=refuse)
        message = (
            r"^ChannelSplit\(gpu_share=0\.123\) is not possible in r0: its share is too odd; 'i"
        )
        with pytest.raises(PlanError, match=message):
            space.match(Plan((Decision.of("r0", "ChannelSplit", gpu_share=0.123),)))

    def test_match_names_what_is_not_possible(self) -> None:
        space = random_space(3, regions=1)
        for rule, found in (
            (
                "ChannelSplit",
                r"^ChannelSplit\(gpu_share=0\.123\) is not possible in r0; 'inspect --v",
            ),
            ("Nope", "^no split rule 'Nope' can.*; use Place, ChannelSplit$"),
        ):
            with pytest.raises(PlanError, match=found):
                space.match(Plan((Decision.of("r0", rule, gpu_share=0.123),)))

    @pytest.mark.parametrize(
        ("lists", "found"),
        [
            ([[place("r0", "cpu", 1)]], "2 regions but candidates for 1"),
            ([[place("r0", "cpu", 1)], []], "'r1' has no candidate"),
            ([[run_of(["r0", "r1"], 1, 1)], [place("r1", "cpu", 1)]], "'r0' has no candidate"),
            ([[place("r0", "cpu", 1)], [place("r0", "cpu", 1)]], "'r1' spans 1 but decides r0"),
            (
                [[place("r0", "cpu", 1)], [place("r1", "cpu", 1), run_of(["r1", "r2"], 1, 1)]],
                "'r1' spans 2",
            ),
        ],
    )
    def test_a_space_that_does_not_fit_is_refused(
        self, lists: list[list[Candidate]], found: str
    ) -> None:
        with pytest.raises(PlanError, match=found):
            Space(("r0", "r1"), tuple(tuple(here) for here in lists))

    @given(any_space, st.randoms(use_true_random=False))
    @settings(deadline=None)
    def test_a_spliced_plan_covers_the_regions_and_has_the_run(
        self, space: Space, rng: Any
    ) -> None:
        plan: list[Candidate] = []
        start = 0
        while start < len(space):
            plan.append(rng.choice(space.candidates[start]))
            start += plan[-1].span
        runs = Runs(space)
        move = rng.choice(list(runs))
        spliced = runs.splice(plan, move)
        plan_of(spliced).covers(space.regions)
        assert set(move[1]) <= set(spliced)


class TestFixed:
    def test_single_lane_places_every_region(self) -> None:
        space = random_space(4)
        for lane in ("cpu", "gpu"):
            plan = single_lane(space, lane)  # type: ignore[arg-type]
            assert {c.decision.param("lane") for c in plan} == {lane}
            assert lane_of(plan) == lane

    def test_a_region_that_cannot_run_on_the_lane_is_named(self) -> None:
        anywhere = (place("r0", "cpu", 5), place("r0", "gpu", 5))
        space = Space(("r0", "r1"), (anywhere, (place("r1", "cpu", 5),)))
        with pytest.raises(PlanError, match=r"'r1' cannot run on the gpu lane"):
            single_lane(space, "gpu")

    def test_split_all_takes_the_best_split_even_where_a_lane_alone_is_faster(self) -> None:
        here = (place("r0", "cpu", 10), split("r0", 0.25, 900, 800), split("r0", 0.5, 600, 500))
        there = (place("r1", "cpu", 10), place("r1", "gpu", 9000))
        plan = split_all(Space(("r0", "r1"), (here, there)), simulator().score)
        assert plan == (here[2], there[0])


def test_split_us_is_the_best_plan_on_both_lanes() -> None:
    here = (place("r0", "cpu", 100), place("r0", "gpu", 9000), split("r0", 0.5, 60, 50))
    found = run("mcts", Space(("r0",), (here,)))
    assert found.candidates == (here[0],)
    assert found.split_us == simulator().score([here[2]])


@pytest.mark.parametrize("limits", [{}, {"evaluations": 0}, {"seconds": -1.0}])
def test_a_search_needs_a_budget(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="budget"):
        Budget(**limits)


def test_an_unknown_strategy_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"'magic'.*greedy, mcts"):
        strategy("magic")
