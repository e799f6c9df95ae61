"""What every search strategy has to keep to, and what some promise beyond."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import (
    COSTS,
    MadeStudy,
    any_costs,
    any_space,
    candidates,
    costs,
    kernel_us,
    phase,
    phases,
    place,
    random_space,
    run,
    run_of,
    run_space,
    simulator,
    split,
)

from syncnas_tvm.additive import Additive, Study
from syncnas_tvm.errors import InputError
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.planner import (
    STRATEGIES,
    Budget,
    Candidate,
    CostMode,
    SearchResult,
    Space,
    StateFile,
    plan_of,
    single_lane,
    split_all,
    strategy,
)
from syncnas_tvm.planner.fixed import lane_of
from syncnas_tvm.scorer import State
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.work import Epilogue, Kernel, Phase, Sync, Work

NAMES = sorted(STRATEGIES)
every_strategy = pytest.mark.parametrize("name", NAMES)
guided = pytest.mark.parametrize("name", [n for n in NAMES if n not in ("random", "exhaustive")])


SCORERS: dict[str, Any] = {
    "timeline": simulator,
    "additive": lambda: Additive(COSTS, kernel_us),
    "study": lambda: MadeStudy(300.0),
}


def facts(found: SearchResult) -> tuple[Any, ...]:
    return found.plan, found.score_us, found.evaluations, found.split_us, found.complete


class Interrupting(Simulator):
    """Raises KeyboardInterrupt in the step of that number."""

    def __init__(self, at: int) -> None:
        super().__init__(COSTS, kernel_us)
        self.left = at

    def step(self, state: State, candidate: Candidate) -> State:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().step(state, candidate)


@st.composite
def made_spaces(draw: st.DrawFn) -> Space:
    """Spaces of arbitrary phases: several a candidate, on both lanes, copied or shared, and runs."""
    size = draw(st.integers(1, 4))
    names = tuple(f"r{i}" for i in range(size))
    lists = []
    for start in range(size):
        here = []
        spans = [1, *draw(st.lists(st.integers(1, size - start), max_size=3))]
        for number, span in enumerate(spans):
            made = draw(st.lists(phases, min_size=1, max_size=2))
            decision = Decision.of(names[start : start + span], "Made", number=number)
            here.append(Candidate(decision, span, Work(tuple(made))))
        lists.append(tuple(here))
    return Space(names, tuple(lists))


class TestConformance:
    @every_strategy
    @given(space=any_space, evaluations=st.integers(1, 60), mode=st.sampled_from(sorted(SCORERS)))
    @settings(max_examples=30, deadline=None)
    def test_a_whole_plan_with_its_score_no_worse_than_a_lane_within_the_budget(
        self, name: str, space: Space, evaluations: int, mode: str
    ) -> None:
        scorer = SCORERS[mode]()
        found = run(name, space, evaluations, scorer=scorer)
        found.plan.covers(space.regions)
        assert plan_of(found.candidates) == found.plan
        assert found.score_us == scorer.score(found.candidates)
        lanes = (single_lane(space, "cpu"), single_lane(space, "gpu"))
        assert found.score_us <= min(map(scorer.score, lanes))
        # Decisions are counted region by region: the last ones may overshoot.
        assert found.evaluations <= evaluations + 2 * len(space.candidates[0]) + 2
        if found.complete:
            best = min(map(scorer.score, space.plans()))
            assert found.score_us == pytest.approx(best, rel=1e-9, abs=1e-2)

    @every_strategy
    @given(space=made_spaces())
    @settings(max_examples=30, deadline=None)
    def test_any_phases_can_be_searched(self, name: str, space: Space) -> None:
        found = run(name, space, 200)
        assert found.score_us == simulator().score(found.candidates)
        if found.complete:
            best = min(map(simulator().score, space.plans()))
            assert found.score_us == pytest.approx(best, rel=1e-9, abs=1e-2)

    @every_strategy
    def test_equal_seeds_give_equal_plans(self, name: str) -> None:
        space = random_space(5, regions=6, runs=True, shares=2)
        assert facts(run(name, space, seed=3)) == facts(run(name, space, seed=3))

    @guided
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("runs", [False, True])
    def test_is_within_two_percent_of_the_best_plan_there_is(
        self, name: str, seed: int, runs: bool
    ) -> None:
        space = random_space(seed, regions=5, shares=4, runs=runs)
        best = min(map(simulator().score, space.plans()))
        assert run(name, space, 2000, seed).score_us <= 1.02 * best

    @guided
    def test_no_worse_than_splitting_every_region(self, name: str) -> None:
        space = random_space(6, regions=12)
        score = simulator().score
        assert run(name, space).score_us <= score(split_all(space, score))

    @every_strategy
    @pytest.mark.parametrize("steps", [30, 300, 1500])
    def test_ctrl_c_gives_the_best_so_far_and_a_state_to_go_on_from(
        self, name: str, steps: int
    ) -> None:
        space = random_space(7, regions=6, shares=2)
        searching = strategy(name)
        found = searching.run(space, Interrupting(steps), Budget(10**5))
        assert found.score_us == simulator().score(found.candidates)
        state = json.loads(json.dumps(searching.state()))
        more = strategy(name).run(space, simulator(), Budget(2000), state)
        assert more.score_us <= found.score_us
        assert more.evaluations >= found.evaluations

    @every_strategy
    @pytest.mark.parametrize("first", [200, 301])
    @pytest.mark.parametrize("mode", sorted(SCORERS))
    def test_going_on_equals_a_run_without_a_break(self, name: str, first: int, mode: str) -> None:
        space = random_space(8, regions=6, shares=4, runs=True)
        whole = run(name, space, 700, seed=4, scorer=SCORERS[mode]())
        searching = strategy(name, 4)
        half = searching.run(space, SCORERS[mode](), Budget(first))
        state = json.loads(json.dumps(searching.state()))
        rest = strategy(name, 4).run(space, SCORERS[mode](), Budget(700 - half.evaluations), state)
        assert facts(rest) == facts(whole)
        assert rest.score_us <= half.score_us

    @every_strategy
    def test_another_strategy_goes_on_from_the_best(self, name: str) -> None:
        space = random_space(9, regions=6, shares=2)
        searching = strategy("dp")
        best = searching.run(space, simulator(), Budget(10**5))
        found = strategy(name).run(space, simulator(), Budget(1), searching.state())
        assert (found.plan, found.score_us) == (best.plan, best.score_us)

    @every_strategy
    def test_seconds_end_a_search(self, name: str) -> None:
        space = random_space(8, regions=7, shares=3)
        found = strategy(name).run(space, simulator(), Budget(seconds=0.2))
        assert found.seconds < 2
        assert found.complete or found.seconds >= 0.2

    @every_strategy
    def test_a_space_with_one_plan_ends_at_once(self, name: str) -> None:
        space = Space(("r0",), ((place("r0", "cpu", 10),),))
        found = run(name, space, 10**6)
        assert found.score_us == 10
        assert found.evaluations < 10
        assert found.split_us is None

    @every_strategy
    def test_one_region_and_no_places(self, name: str) -> None:
        space = Space(("r0",), ((split("r0", 0.25, 900, 800), split("r0", 0.5, 600, 500)),))
        assert run(name, space).candidates == (space.candidates[0][1],)

    @every_strategy
    def test_identical_costs(self, name: str) -> None:
        names = tuple(f"r{i}" for i in range(5))
        work = Work((phase([100]),))
        lists = (
            tuple(Candidate(Decision.of(n, f"Rule{i}"), 1, work) for i in range(3)) for n in names
        )
        found = run(name, Space(names, tuple(lists)), 2000)
        assert found.score_us == 500
        assert lane_of(found.candidates) == "cpu"

    @every_strategy
    def test_an_empty_model_has_an_empty_plan(self, name: str) -> None:
        assert run(name, Space((), ())).plan == Plan(())

    @every_strategy
    def test_a_run_that_is_best_is_found(self, name: str) -> None:
        names = ("r0", "r1", "r2")
        lists = [[place(n, "cpu", 1000), place(n, "gpu", 1100)] for n in names]
        lists[0].append(run_of(names, 1500, 1400))
        space = Space(names, tuple(map(tuple, lists)))
        assert [c.span for c in run(name, space).candidates] == [3]


class TestExact:
    """``dp`` and ``exhaustive`` against all plans"""

    @pytest.mark.parametrize("name", ["dp", "exhaustive"])
    @given(space=made_spaces(), found=any_costs, sync_us=st.floats(0, 1000), study=st.booleans())
    @settings(max_examples=150, deadline=None)
    def test_is_the_best_plan_of_additive_costs(
        self, name: str, space: Space, found: TargetCosts, sync_us: float, study: bool
    ) -> None:
        scorer = MadeStudy(sync_us) if study else Additive(found, kernel_us)
        result = run(name, space, 10**6, scorer=scorer)
        assert result.complete
        assert result.score_us == pytest.approx(min(map(scorer.score, space.plans())), rel=1e-12)

    @pytest.mark.parametrize("name", ["dp", "beam", "mcts"])
    @given(space=any_space)
    @settings(max_examples=60, deadline=None)
    def test_a_proven_plan_on_a_timeline_is_the_best(self, name: str, space: Space) -> None:
        result = run(name, space, 10**6)
        assert result.complete
        best = min(map(simulator().score, space.plans()))
        assert result.score_us == pytest.approx(best, rel=1e-9, abs=1e-2)

    def test_exhaustive_refuses_what_would_not_end(self) -> None:
        with pytest.raises(InputError, match=r"e\+\d+ plans.*--strategy dp.*mcts"):
            run("exhaustive", random_space(1, regions=20))


class TestLargeSpaces:
    @pytest.mark.parametrize("mode", sorted(SCORERS))
    def test_mcts_is_within_one_percent_of_dp(self, mode: str) -> None:
        space = run_space(1)
        best = run("dp", space, 10**6, scorer=SCORERS[mode]())
        assert best.complete == (mode != "timeline")  # too many states there
        for seed in range(3):
            found = run("mcts", space, 1500, seed, SCORERS[mode]())
            assert found.score_us <= 1.01 * best.score_us

    @pytest.mark.parametrize("rival", ["random", "greedy"])
    def test_mcts_beats_others_at_equal_evaluations(self, rival: str) -> None:
        for seed in range(3):
            space = run_space(seed)
            assert run("mcts", space, 500).score_us < 0.99 * run(rival, space, 500).score_us


class TestScores:
    @given(candidates, any_costs, st.booleans())
    @settings(deadline=None)
    def test_a_timeline_ends_at_the_score(
        self, plan: Sequence[Candidate], found: TargetCosts, study: bool
    ) -> None:
        scorer = MadeStudy(250.0) if study else Additive(found, kernel_us)
        timeline = scorer.timeline(plan)
        assert timeline.latency_us == pytest.approx(scorer.score(plan), abs=1e-3)

    def test_additive_by_hand(self) -> None:
        scorer = Additive(costs(latency_us=100, gbytes_per_s=1, enqueue_us=10), kernel_us)
        # input 2000 B: 102; the slower lane 60; its result of 1000 B to the other one 101, join 5;
        # the CPU's 30
        assert (
            scorer.score([split("r0", 0.5, 50, 60), place("r1", "cpu", 30)]) == 102 + 60 + 101 + 35
        )
        assert scorer.score([place("r0", "gpu", 60)]) == 102 + 60 + 101

    def test_study_by_hand(self) -> None:
        study = MadeStudy(500.0)
        cpu, gpu, both = place("r", "cpu", 30), place("r", "gpu", 60), split("r", 0.5, 50, 20)
        assert study.score([gpu]) == 60
        assert study.score([both]) == 550
        assert study.score([cpu, gpu]) == 590
        assert study.score([both, gpu]) == study.score([both, cpu]) + 30 == 610
        assert study.score([both, both]) == 1100
        assert study.score([cpu, both]) == 30 + 500 + 550

    def test_the_study_counts_convolutions_without_what_is_fused_behind_them(self) -> None:
        conv = Kernel("nn.conv2d", ((1, 8, 4, 4), (8, 8, 1, 1), (1, 8, 4, 4)), "float32", "cpu")
        fused = replace(conv, epilogue=(Epilogue("add", ((1, 8, 1, 1),)),))
        other = Kernel("add", ((8,), (8,)), "float32", "cpu")
        work = Work((Phase((fused, other), (), Sync("copy", 8, 0)),))
        plan = [Candidate(Decision.of("r0", "Made"), 1, work)]
        assert Study(500.0, {conv: 42.0}).score(plan) == 42.0

    @pytest.mark.parametrize(
        ("name", "sync_us", "found"),
        [
            ("study", None, "needs the microseconds"),
            ("study", -1.0, "found -1"),
            ("timeline", 5.0, "not for timeline"),
            ("fast", None, "unknown cost mode 'fast'"),
        ],
    )
    def test_a_mode_that_cannot_be(self, name: Any, sync_us: float | None, found: str) -> None:
        with pytest.raises(InputError, match=found):
            CostMode(name, sync_us)


class TestStateFile:
    def saved(self, path: Any, target: str = "here", mode: CostMode | None = None) -> Space:
        space = random_space(3, regions=4)
        searching = strategy("mcts")
        searching.run(space, simulator(), Budget(50))
        StateFile(path, target).save(space, mode or CostMode(), searching.state())
        return space

    def test_there_and_back(self, tmp_path: Any) -> None:
        space = self.saved(tmp_path / "new" / "state")
        state = StateFile(tmp_path / "new" / "state", "here").load(space, CostMode())
        assert state is not None
        assert state["evaluations"] >= 50
        assert StateFile(tmp_path / "none", "here").load(space, CostMode()) is None

    def test_of_another_search(self, tmp_path: Any) -> None:
        path = tmp_path / "state"
        space = self.saved(path)
        with pytest.raises(InputError, match="target 'here', not 'there'"):
            StateFile(path, "there").load(space, CostMode())
        with pytest.raises(InputError, match="cost mode 'timeline', not 'additive'"):
            StateFile(path, "here").load(space, CostMode("additive"))
        with pytest.raises(InputError, match="other decisions"):
            StateFile(path, "here").load(random_space(4, regions=4), CostMode())

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9, "of": {}, "state": {}}'])
    def test_no_state_at_all(self, tmp_path: Any, text: str) -> None:
        path = tmp_path / "state"
        path.write_text(text)
        with pytest.raises(InputError, match="not the state of a search"):
            StateFile(path, "here").load(random_space(3), CostMode())

    def test_a_damaged_state(self, tmp_path: Any) -> None:
        path = tmp_path / "state"
        space = self.saved(path)
        data = json.loads(path.read_text())
        del data["state"]["rng"]
        path.write_text(json.dumps(data))
        with pytest.raises(InputError, match=r"state: .*damaged or changed .* delete this one"):
            StateFile(path, "here").load(space, CostMode())
