"""Finds the decision that makes an executable's outputs differ from the model's."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.graph.rebuild import emit_call, emit_function, fresh_params
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import inline_regions
from syncnas_tvm.passes.place import Place
from syncnas_tvm.passes.rule_contract import rewritten
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import Target
from syncnas_tvm.verify import deviation


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
        mod = graph.module_of(decision.regions)
        inputs = _inputs(mod[graph.run(decision.regions).name])
        whole = Decision.of(decision.regions, Place.name, lane="cpu")
        found, expected = (_run(mod, graph, d, target, inputs) for d in (decision, whole))
        error = deviation(found, expected).max_rel
        if not error <= max(tolerance, worst[1] if worst else 0.0):
            worst = decision, error
    return worst


def _inputs(region: relax.Function) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape_of(p)).astype(dtype_of(p)) for p in region.params]


def _run(
    mod: tvm.IRModule,
    graph: RegionGraph,
    decision: Decision,
    target: Target,
    inputs: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """What the region of ``mod`` computes rewritten by ``decision``, all of it on the CPU lane."""
    region = graph.run(decision.regions)
    written = rewritten(mod, graph, decision)
    alone = tvm.IRModule()
    for gv, function in inline_regions(_only(written, region)).functions_items():
        on_cpu = LANE_ATTR in (function.attrs or {})
        alone[gv] = function.with_attr(LANE_ATTR, "cpu") if on_cpu else function
    vm = relax.VirtualMachine(build(alone, target), [tvm.cpu(0)])
    result = vm["main"](*(tvm.runtime.tensor(array) for array in inputs))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else result
    return {str(i): r.numpy() for i, r in enumerate(results)}


def _only(mod: tvm.IRModule, region: Region) -> tvm.IRModule:
    """``mod`` with a ``main`` that calls one region."""
    builder = relax.BlockBuilder()
    params = fresh_params(mod[region.name].params)

    def body() -> list[relax.Expr]:
        callee = mod.get_global_var(region.name)
        return list(emit_call(builder, callee, params, len(region.out_shapes)))

    emit_function(builder, "main", params, body, {"num_input": len(params)}, private=False)
    result = mod.clone()
    result[result.get_global_var("main")] = builder.get()["main"]
    return result
