"""Which rows of a found plan are computed first: those that the next run of bands reads, where it pays."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import zoo

from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.errors import PlanError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.planner import Budget, Candidate, CostMode, Space, choose, choose_fixed, plan_of
from syncnas_tvm.planner.rows_first import rows_first
from syncnas_tvm.targets import Target, load_target


@pytest.fixture(scope="module")
def found() -> tuple[Target, Space]:
    target = load_target("rk3399")
    module = import_onnx(zoo.export("mobilenet_v2")).mod
    return target, decision_space(RegionGraph(module, target.channel_step))


def runs(space: Space) -> tuple[Candidate, ...]:
    """Two runs of bands that meet, everything else on the CPU."""
    decisions: list[Decision] = []
    for name in space.regions:
        cut = 16 if name in space.regions[3:5] else None
        decisions.append(
            Decision.of(name, "RowSplit", cpu_rows=cut)
            if cut
            else Decision.of(name, "Place", lane="cpu")
        )
    return space.match(Plan(tuple(decisions)))


def borders(plan: tuple[Candidate, ...]) -> dict[str, tuple[int, int]]:
    """By the run's first region, how many rows the lanes compute first."""
    found = {}
    for candidate in plan:
        params = dict(candidate.decision.params)
        if "cpu_border" in params:
            found[candidate.decision.regions[0]] = (params["cpu_border"], params["gpu_border"])
    return found


def test_the_rows_are_those_that_the_next_run_reads(found: tuple[Target, Space]) -> None:
    """A sync of a millisecond hides behind the rest."""
    target, space = found
    costs = replace(target.costs, enqueue_us=0.0)
    slow = replace(costs.to_cpu, latency_us=1000.0), replace(costs.to_gpu, latency_us=1000.0)
    costs = replace(costs, to_cpu=slow[0], to_gpu=slow[1])
    plan = runs(space)
    model = cost_model_of(target)
    scored = CostMode().scorer(space, costs, model)
    better = rows_first(space, plan, scored, model)
    seam = better[3].work.phases[-1].output.seam
    cpu, gpu = better[4].work.phases[0].reads
    rows = max(1, seam.cut - gpu[0]), max(1, cpu[1] - seam.cut)
    assert borders(better) == {space.regions[3]: rows}
    assert seam.covers((cpu, gpu))
    assert scored.score(better) < scored.score(plan)
    assert scored.timeline(better).latency_us == pytest.approx(scored.score(better))


def test_nothing_is_cut_where_that_does_not_pay(found: tuple[Target, Space]) -> None:
    """One kernel more to enqueue costs more than what it could hide."""
    target, space = found
    costs = replace(target.costs, enqueue_us=1000.0)
    plan = runs(space)
    model = cost_model_of(target)
    better = rows_first(space, plan, CostMode().scorer(space, costs, model), model)
    assert borders(better) == {}


def test_compile_decides_it_and_a_plan_file_can_say_it(found: tuple[Target, Space]) -> None:
    target, space = found
    model = cost_model_of(target)
    choice = choose(space, target.costs, model, budget=Budget(2000))
    assert borders(choice.candidates)
    assert choice.plan == plan_of(choice.candidates)
    assert choice.search is not None
    assert (
        choice.latency_us["both"]
        == choice.search.score_us
        == pytest.approx(choice.timeline.latency_us)
    )
    plain = [
        replace(d, params=tuple(p for p in d.params if not p[0].endswith("_border")))
        for d in choice.plan.decisions
    ]
    without = choose_fixed(space, target.costs, model, Plan(tuple(plain)))
    assert without.latency_us["both"] > choice.latency_us["both"]
    again = choose_fixed(space, target.costs, model, Plan.loads(_json(choice.plan)))
    assert again.latency_us["both"] == pytest.approx(choice.latency_us["both"])
    additive = choose(space, target.costs, model, budget=Budget(500), cost_mode="additive")
    assert not borders(additive.candidates)


def _json(plan: Plan) -> str:
    return json.dumps(plan.to_json())


def test_borders_that_cannot_be_are_refused(found: tuple[Target, Space]) -> None:
    _, space = found
    decisions = [c.decision for c in runs(space)]
    first = space.regions[3]
    decisions[3] = Decision.of(first, "RowSplit", cpu_rows=16, cpu_border=16, gpu_border=1)
    with pytest.raises(PlanError, match=rf"not possible in {first}: .*narrower borders"):
        space.match(Plan(tuple(decisions)))
