"""``ApplyPlan``: rewrites every region as the plan says and inlines the regions into ``main``."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import calls_of
from syncnas_tvm.graph.rebuild import emit_function, fresh_params
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes.rule_contract import rewritten
from syncnas_tvm.plan import Plan


@tvm.transform.module_pass(opt_level=0, name="ApplyPlan")
class ApplyPlan:
    """From the outlined regions of ``graph`` to a ``main`` that calls lane functions and joins.

    Before::

        def r0(x): return conv(x)
        def main(x): return r0(x)

    After (``r0`` split by channels)::

        def main(x): return r0_join0(r0_p0_cpu(x), r0_p0_gpu(x))
    """

    def __init__(self, graph: RegionGraph, plan: Plan) -> None:
        self.graph = graph
        self.plan = plan

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Apply the decisions one by one. TVM turns what this raises into RuntimeError."""
        return _apply(mod, self.graph, self.plan)


def apply_plan(graph: RegionGraph, plan: Plan) -> tvm.IRModule:
    """What :class:`ApplyPlan` makes of the graph's own module, outside of TVM's pass machinery.

    Raises PlanError and RuleError as such, naming the region.
    """
    return _apply(graph.mod, graph, plan)


def _apply(mod: tvm.IRModule, graph: RegionGraph, plan: Plan) -> tvm.IRModule:
    plan.covers(graph.names)
    if any(len(decision.regions) > 1 for decision in plan.decisions):
        mod = graph.grouped([decision.regions for decision in plan.decisions])
    for decision in plan.decisions:
        mod = rewritten(mod, graph, decision)
    return inline_regions(mod)


def inline_regions(mod: tvm.IRModule) -> tvm.IRModule:
    """``mod`` with what ``main``'s regions call in ``main`` itself."""
    builder = relax.BlockBuilder()
    outer = calls_of(mod, mod["main"])
    params = fresh_params(outer.params)
    env: dict[relax.Var, relax.Expr] = dict(zip(outer.params, params, strict=True))
    used: dict[tvm.ir.GlobalVar, relax.Function] = {}

    def body() -> list[relax.Expr]:
        for region_call in outer.calls:
            inner = calls_of(mod, region_call.function)
            local = dict(zip(inner.params, (env[arg] for arg in region_call.args), strict=True))
            for call in inner.calls:
                used[call.callee] = call.function
                value = builder.emit(
                    relax.Call(call.callee, [local[arg] for arg in call.args]),
                    name_hint=call.callee.name_hint,
                )
                many = len(call.results) > 1
                for i, result in enumerate(call.results):
                    if result is not None:
                        local[result] = (
                            builder.emit(relax.TupleGetItem(value, i)) if many else value
                        )
            for result, output in zip(region_call.results, inner.outputs, strict=True):
                if result is not None:
                    env[result] = local[output]
        return [env[output] for output in outer.outputs]

    emit_function(builder, "main", params, body, {"num_input": len(params)}, private=False)
    result = builder.get()
    for callee, function in used.items():
        result[callee] = function
    return result
