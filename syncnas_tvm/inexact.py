"""Finds the decision that makes an executable's outputs differ from the model's."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.graph.rebuild import emit_function, fresh_params
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import inline_regions
from syncnas_tvm.passes.place import Place
from syncnas_tvm.passes.rule import rule
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import Target

Arrays = list[np.ndarray]


def inexact_decision(
    graph: RegionGraph, plan: Plan, target: Target, tolerance: float
) -> tuple[Decision, float] | None:
    """The decision of ``plan`` that changes its region the most, and by how much (relative error).

    Each is compiled alone, with both lanes' functions on the CPU lane, and compared with the region
    as the model has it, on random inputs. None where all of them are within ``tolerance``: then it
    is the model's import, or a kernel, that is at fault. ``target`` has to run on this machine.
    """
    worst: tuple[Decision, float] | None = None
    for decision in plan.decisions:
        if decision.rule == Place.name:
            continue
        whole = Decision.of(decision.regions, Place.name, lane="cpu")
        inputs = _inputs(graph, decision)
        expected = _run(graph, whole, target, inputs)
        error = max(map(_relative_error, _run(graph, decision, target, inputs), expected))
        if not error <= max(tolerance, worst[1] if worst else 0.0):
            worst = decision, error
    return worst


def _inputs(graph: RegionGraph, decision: Decision) -> Arrays:
    rng = np.random.default_rng(0)
    function = graph.module_of(decision.regions)[graph.run(decision.regions).name]
    return [rng.standard_normal(shape_of(p)).astype(dtype_of(p)) for p in function.params]


def _run(graph: RegionGraph, decision: Decision, target: Target, inputs: Arrays) -> Arrays:
    """What the region computes when it is rewritten by ``decision``, all of it on the CPU lane."""
    region = graph.run(decision.regions)
    mod = graph.module_of(decision.regions)
    mod = rule(decision.rule).rewrite(mod, graph, region, decision)
    alone = tvm.IRModule()
    for gv, function in inline_regions(_only(mod, region.name)).functions_items():
        on_cpu = LANE_ATTR in (function.attrs or {})
        alone[gv] = function.with_attr(LANE_ATTR, "cpu") if on_cpu else function
    vm = relax.VirtualMachine(build(alone, target), [tvm.cpu(0)])
    result = vm["main"](*(tvm.runtime.tensor(array) for array in inputs))
    return [r.numpy() for r in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def _only(mod: tvm.IRModule, region: str) -> tvm.IRModule:
    """``mod`` with a ``main`` that calls one region."""
    function = mod[region]
    builder = relax.BlockBuilder()
    params = fresh_params(function.params)

    def body() -> list[relax.Expr]:
        call = builder.emit(relax.Call(mod.get_global_var(region), params))
        if not isinstance(function.ret_ty, relax.TupleType):
            return [call]
        count = len(function.ret_ty.fields)
        return [builder.emit(relax.TupleGetItem(call, i)) for i in range(count)]

    emit_function(builder, "main", params, body, {"num_input": len(params)}, private=False)
    result = mod.clone()
    result[result.get_global_var("main")] = builder.get()["main"]
    return result


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    difference = float(np.abs(found - expected).max(initial=0.0))
    return difference / (float(np.abs(expected).max(initial=0.0)) or 1.0)
