"""Split rules of other people: one that keeps to the contract, and all the ways to break it."""

from __future__ import annotations

from collections.abc import Callable

import graph_nets
import numpy as np
import pytest
import tvm
from graph_nets import Net, graph_of
from tvm import relax

from syncnas_tvm.candidates import decision_space
from syncnas_tvm.errors import PlanError, RuleError
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.host_costs import collect_groups
from syncnas_tvm.inexact import inexact_decision
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.lanes import lane_attrs, replace_region
from syncnas_tvm.passes.rule import SplitRule, register_rule
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.planner import Candidate
from syncnas_tvm.targets import load_target
from syncnas_tvm.work import LANES, Work

pytestmark = pytest.mark.usefixtures("own_rules")
op = relax.op
NAMED = "split rule Own failed on region 'r0': "


class Own(SplitRule):
    """Puts a region on the GPU lane; the tests break it, method by method."""

    name = "Own"
    lane = "gpu"

    def applies(self, graph: RegionGraph, region: Region) -> bool:
        return True

    def variants(self, graph: RegionGraph, region: Region) -> list[Decision]:
        return [Decision.of(region.name, self.name)]

    def rewrite(
        self, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        body = mod[region.name].with_attrs(lane_attrs(region.name, self.lane, 0))

        def call(builder: relax.BlockBuilder, params: list[relax.Var]) -> list[relax.Expr]:
            callee = builder.add_func(body, f"own_{self.lane}")
            return [builder.emit(relax.Call(callee, params))]

        return replace_region(mod, region, call)


def register(**broken: object) -> None:
    """Make ``Own`` known, with these of its attributes in the place of its own."""
    register_rule(type("Own", (Own,), broken))


def raises(error: Exception) -> Callable[..., object]:
    def method(*_: object) -> object:
        raise error

    return method


def returns(value: object) -> Callable[..., object]:
    return lambda *_: value


def decides(*regions: str, rule: str = "Own", **params: object) -> Callable[..., object]:
    return returns([Decision.of(regions, rule, **params)])


def writes(expr: Callable[[relax.Expr], relax.Expr]) -> Callable[..., tvm.IRModule]:
    """A ``rewrite`` that computes ``expr`` outside of lanes."""

    def rewrite(
        self: SplitRule, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        def body(builder: relax.BlockBuilder, params: list[relax.Var]) -> list[relax.Expr]:
            return [builder.emit(expr(params[0]), name_hint="stray")]

        return replace_region(mod, region, body)

    return rewrite


def three_regions() -> RegionGraph:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        return n.mbconv(n.mbconv(n.mbconv(x, 24, 8), 24, 8), 24, 8)

    graph = graph_of(body, channels=8, size=4)
    assert len(graph.regions) == 3
    return graph


def one_region() -> RegionGraph:
    return graph_of(lambda n, x: n.relu(x), channels=2, size=4)


OWN = Plan((Decision.of("r0", "Own"),))


def test_a_rule_of_ones_own() -> None:
    """Registered, it is known to the search and to plans, and is applied."""
    register()
    graph = one_region()
    assert OWN.decisions[0] in [c.decision for c in decision_space(graph).all()]
    mod = apply_plan(graph, OWN)
    assert mod["own_gpu"].attrs["syncnas.lane"] == "gpu"
    inputs = graph_nets.random_inputs(graph.mod)
    np.testing.assert_array_equal(graph_nets.evaluate(mod, inputs)[0], np.maximum(inputs[0], 0))


WRITTEN = {
    "raises": (raises(ZeroDivisionError("too few rows")), "too few rows"),
    "nothing": (returns(None), "its 'rewrite' is None; return the rewritten module"),
    "another shape": (writes(lambda x: op.mean(x, [2, 3])), "it returned .* and now returns"),
    "outside of lanes": (writes(op.nn.relu), "'stray' is computed outside a lane function or a"),
}
"""What is wrong with a ``rewrite``, and what is said of it."""


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        *(({"rewrite": rewrite}, message) for rewrite, message in WRITTEN.values()),
        ({"applies": raises(ValueError("odd"))}, "odd"),
        ({"lane": "npu"}, "the call of 'own_npu' is neither a lane function nor a join"),
    ],
    ids=[*WRITTEN, "applies", "no lane"],
)
def test_named_where_a_plan_is_applied(broken: dict[str, object], message: str) -> None:
    register(**broken)
    with pytest.raises(RuleError, match=NAMED + message) as caught:
        apply_plan(one_region(), OWN)
    assert caught.value.__cause__ is not None


def test_a_plan_that_the_rule_refuses() -> None:
    """It is the plan that is wrong, then."""
    register(rewrite=raises(PlanError("gpu_share is 7")))
    with pytest.raises(PlanError, match=f"{NAMED}gpu_share is 7"):
        apply_plan(one_region(), OWN)


@pytest.mark.parametrize(
    "use",
    [
        lambda graph, decision: collect_groups(graph, Candidate(decision, 1, Work(())), LANES, {}),
        lambda graph, decision: inexact_decision(
            graph, Plan((decision,)), load_target("host"), 1e-4
        ),
    ],
    ids=["measure", "verify"],
)
def test_named_where_a_decision_is_written(use: Callable[..., object]) -> None:
    register(work=returns(Work(())), rewrite=raises(ValueError("odd")))
    with pytest.raises(RuleError, match=f"{NAMED}odd"):
        use(one_region(), *OWN.decisions)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"applies": raises(ValueError("odd"))}, "odd"),
        ({"variants": raises(PlanError("odd"))}, "odd"),
        ({"variants": returns(["Own"])}, "one of its 'variants' is 'Own'; return Decisions"),
        ({"variants": decides("r2")}, r"its decision Own\(\) is on r2; decide this region"),
        ({"variants": decides()}, r"decision Own\(\) names no region"),
        ({"variants": decides("r0", "r2")}, "regions r0, r2 do not follow one another"),
        ({"variants": decides("r0", "r9")}, "regions r0, r9 do not follow one another"),
        ({"variants": decides("r0", rule="Place")}, "its decision Place.* names another rule"),
        ({"variants": decides("r0", cut=[1, 2])}, r"decision Own\(cut=\[1, 2\]\) on r0 has a list"),
        ({"variants": decides("r0", cut=(1, 2))}, r"decision Own\(cut=\[1, 2\]\) on r0 has a list"),
        ({"variants": decides("r0", cut=object())}, "a plan cannot keep .* not JSON serializable"),
        ({"variants": decides("r0", cut=float("nan"))}, r"a plan cannot keep .*Own\(cut=nan\)"),
        (
            {"variants": returns([Decision(("r0",), "Own", (("b", 1), ("a", 2)))])},
            r"a plan keeps its decision Own\(b=1, a=2\) as .*; make it with Decision.of",
        ),
        ({"work": returns(None)}, "its 'work' is None; return a Work"),
        ({"work": raises(PlanError("odd"))}, "odd"),
        ({"rewrite": writes(op.nn.relu)}, "'stray' is computed outside a lane function or a"),
        ({"lane": "npu"}, "the call of 'own_npu' is neither a lane function nor a join"),
    ],
)
def test_named_where_decisions_are_collected(broken: dict[str, object], message: str) -> None:
    register(**broken)
    with pytest.raises(RuleError, match=NAMED + message) as caught:
        decision_space(three_regions())
    assert caught.value.__cause__ is not None
