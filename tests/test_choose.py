"""The planner's front door: which plan is compiled, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from spaces import COSTS, costs, kernel_us, phase, place, random_space, split

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.plan import Decision
from syncnas_tvm.planner import (
    Budget,
    Candidate,
    Choice,
    Space,
    choose,
    choose_fixed,
    kernels_of,
    plan_of,
    single_lane,
)
from syncnas_tvm.report import ms
from syncnas_tvm.work import Kernel, Work


class Made(CostModel):
    """Reads the time that a made-up kernel says it takes."""

    def predict(self, kernels: Sequence[Kernel]) -> Any:
        us = np.array([kernel_us(k) for k in kernels])
        return us, 0 * us


class TestChoose:
    def choose(self, space: Space, **options: Any) -> Choice:
        return choose(space, COSTS, Made(), budget=Budget(500), **options)

    def test_both_lanes_where_that_pays(self) -> None:
        here = (place("r0", "cpu", 9000), place("r0", "gpu", 9500), split("r0", 0.5, 4000, 4000))
        choice = self.choose(Space(("r0",), (here,)))
        assert choice.candidates == (here[2],)
        assert choice.lane is None
        both = ms(choice.latency_us["both"])
        assert (
            choice.reason
            == f"both lanes: predicted at {both} against 9.00 ms on the cpu lane alone"
        )
        assert choice.latency_us["both"] == pytest.approx(choice.timeline.latency_us)
        assert choice.latency_us["cpu"] == 9000
        assert choice.timeline.overlap_us > 3500

    def test_one_lane_where_no_split_pays_and_why(self) -> None:
        here = (place("r0", "cpu", 900), place("r0", "gpu", 9500), split("r0", 0.5, 880, 850))
        choice = self.choose(Space(("r0",), (here,)))
        assert choice.lane == "cpu"
        both = ms(choice.latency_us["both"])
        assert choice.reason == (
            f"cpu lane alone: the best split plan is predicted at {both} against 0.90 ms"
        )
        assert choice.timeline.latency_us == choice.latency_us["cpu"] == 900

    def test_a_gain_below_one_percent_is_not_worth_two_lanes(self) -> None:
        free = costs(latency_us=0, gbytes_per_s=1e9, enqueue_us=0)
        for us, lane in ((9950, "cpu"), (9850, None)):
            here = (place("r0", "cpu", 10000), split("r0", 0.5, us - 5, us - 5))
            choice = choose(Space(("r0",), (here,)), free, Made(), budget=Budget(50))
            assert choice.lane == lane, choice.reason
            assert ("less than 1 % faster" in choice.reason) == (lane == "cpu")

    def test_a_search_that_ends_too_early_says_so(self) -> None:
        space = random_space(3, regions=4)
        early = choose(space, COSTS, Made(), "dp", Budget(3))
        assert "the search ended before it had a plan on both lanes" in early.reason
        usual = choose(space, COSTS, Made(), "dp").search
        assert usual is not None
        assert usual.complete

    def test_no_split_at_all(self) -> None:
        space = Space(("r0",), ((place("r0", "cpu", 900),),))
        choice = self.choose(space)
        assert choice.reason == "cpu lane alone: no region can be split between the lanes"
        assert choice.latency_us == {"cpu": 900}

    @pytest.mark.parametrize("lane", ["cpu", "gpu"])
    def test_one_lane_as_asked(self, lane: Any) -> None:
        choice = self.choose(random_space(11), lanes=lane)
        assert choice.lane == lane
        assert choice.reason == f"{lane} lane alone, as asked"
        assert choice.latency_us[lane] == choice.timeline.latency_us

    def test_a_given_plan_and_the_plan_that_splits_all(self) -> None:
        space = random_space(12)
        given_plan = plan_of(single_lane(space, "gpu"))
        assert choose_fixed(space, COSTS, Made(), given_plan).plan == given_plan
        everything = choose_fixed(space, COSTS, Made())
        assert {d.rule for d in everything.plan.decisions} == {"ChannelSplit"}
        assert everything.latency_us["both"] == pytest.approx(everything.timeline.latency_us)

    def test_equal_seeds_give_equal_choices(self) -> None:
        space = random_space(13, regions=10, runs=True)
        assert self.choose(space, seed=5).plan == self.choose(space, seed=5).plan

    def test_kernels_of_a_space_are_distinct_and_hold_the_joins_of_both_lanes(self) -> None:
        one = Candidate(Decision.of("r0", "Made"), 1, Work((phase([3], [4], "sum", join=[5]),)))
        found = kernels_of((one, place("r0", "cpu", 3)))
        assert sorted((kernel_us(k), k.lane) for k in found) == [
            (3, "cpu"),
            (4, "gpu"),
            (5, "cpu"),
            (5, "gpu"),
        ]
