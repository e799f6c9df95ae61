"""ApplyPlan: a main of lane functions and joins, and what it means for every rule on every region."""

from __future__ import annotations

import graph_nets
import numpy as np
import pytest
import tvm
import zoo
from graph_nets import Net, graph_of
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes import rule as rule_module
from syncnas_tvm.passes.apply_plan import ApplyPlan, apply_plan
from syncnas_tvm.plan import Decision, Plan

TOLERANCE = 1e-4


def network(n: Net, x: relax.Var) -> relax.Expr:
    return n.mbconv(n.relu6(n.conv(x, 8, 3, 2, "stem")), 24, 8)


def plan_of(*decisions: tuple[str, str, dict[str, object]]) -> Plan:
    return Plan(tuple(Decision.of(region, name, **params) for region, name, params in decisions))


MIXED = plan_of(("r0", "Place", {"lane": "gpu"}), ("r1", "ChannelSplit", {"gpu_share": 0.5}))


def test_main_calls_lane_functions_and_joins() -> None:
    """Regions are inlined; the functions that they called stay as they are."""
    graph = graph_of(network, size=8)
    mod = apply_plan(graph, MIXED)
    tvm.ir.assert_structural_equal(ApplyPlan(graph, MIXED)(graph.mod), mod)
    functions = {gv.name_hint for gv in mod.get_global_vars()}
    assert functions == {"main", "r0_gpu", "r1_p0_cpu", "r1_p0_gpu", "r1_join0"}

    builder = relax.BlockBuilder()
    image = relax.TensorType((1, 3, 8, 8), "float32")
    x = relax.Var("x", image)
    types = {name: mod[name].ty for name in functions}

    def call(name: str, *args: relax.Expr) -> relax.Expr:
        gv = tvm.ir.GlobalVar(name)
        relax.expr._update_type(gv, types[name])
        return builder.emit(relax.Call(gv, list(args)))

    with builder.function("main", [x], attrs={"num_input": 1}):
        with builder.dataflow():
            y = call("r0_gpu", x)
            gpu = call("r1_p0_gpu", y)
            cpu = call("r1_p0_cpu", y)
            result = builder.emit_output(call("r1_join0", cpu, gpu))
        builder.emit_func_output(result)
    expected = builder.get()
    for name in functions - {"main"}:
        expected[name] = mod[name]
    tvm.ir.assert_structural_equal(mod["main"].body, expected["main"].body, map_free_vars=True)
    # The lane functions are those that the rules wrote.
    region = graph.region("r1")
    alone = rule_module.rule("ChannelSplit").rewrite(graph.mod, graph, region, MIXED.decisions[1])
    for name in ("r1_p0_cpu", "r1_p0_gpu", "r1_join0"):
        tvm.ir.assert_structural_equal(mod[name], alone[name])


def test_several_outputs_keep_their_order() -> None:
    def body(n: Net, x: relax.Var) -> list[relax.Expr]:
        y = n.mbconv(x, 24, 8)
        return [n.relu(y), y]

    graph = graph_of(body, channels=8, size=4)
    inputs = graph_nets.random_inputs(graph.mod)
    plan = Plan(graph_nets.placed(graph, "gpu"))
    found = graph_nets.evaluate(apply_plan(graph, plan), inputs)
    assert len(found) == 2
    np.testing.assert_array_equal(found[0], np.maximum(found[1], 0))


# Plans that do not fit.


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (plan_of(("r0", "Place", {"lane": "cpu"})), "decides region 'r1' 0 times; once is needed"),
        (
            plan_of(
                ("r0", "Place", {"lane": "cpu"}),
                ("r0", "Place", {"lane": "cpu"}),
                ("r1", "Place", {"lane": "cpu"}),
            ),
            "decides region 'r0' 2 times",
        ),
        (
            plan_of(("r1", "Place", {"lane": "cpu"}), ("r0", "Place", {"lane": "cpu"})),
            "not in the order",
        ),
        (plan_of(("r5", "Place", {"lane": "cpu"})), "names region 'r5'"),
        (
            plan_of(("r0", "Place", {"lane": "cpu"}), ("r1", "Halve", {})),
            "no split rule 'Halve'; the registered ones are",
        ),
        (
            plan_of(("r0", "Branches", {"gpu_branches": "0"}), ("r1", "Place", {"lane": "cpu"})),
            "rule Branches does not apply to region 'r0'",
        ),
        (
            plan_of(("r0", "Place", {"lane": "cpu"}), ("r1", "ChannelSplit", {"gpu_share": 7})),
            "region 'r1': gpu_share is 7",
        ),
    ],
    ids=["missing", "twice", "order", "unknown", "no rule", "does not apply", "bad parameter"],
)
def test_plans_that_do_not_fit(plan: Plan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        apply_plan(graph_of(network), plan)


# What plans mean: every variant of every rule on every region.


@pytest.mark.parametrize("name", zoo.RANDOM_MODELS)
def test_every_variant_of_every_region_is_exact(name: str) -> None:
    """Run by torch, which compiles nothing; onnxruntime runs the original."""
    model = import_onnx(zoo.export(name, size=32))
    graph = RegionGraph(model.mod, 16)
    inputs = graph_nets.random_inputs(model.mod)
    feeds = {s.name: a for s, a in zip(model.inputs, inputs, strict=True)}
    expected = model.original.run(feeds)
    tried = set()
    for plan in graph_nets.all_plans(graph):
        tried.update(plan.decisions)
        found = graph_nets.evaluate(apply_plan(graph, plan), inputs)
        for spec, array in zip(model.outputs, found, strict=True):
            error = graph_nets.relative_error(array, expected[spec.name])
            assert error <= TOLERANCE, plan
    wanted = {
        decision
        for region in graph.regions
        for rule in rule_module.rules()
        if rule.applies(graph, region)
        for decision in rule.variants(graph, region)
        if len(decision.regions) == 1
    }
    assert tried >= wanted
    assert any(len(decision.regions) > 1 for decision in tried)
