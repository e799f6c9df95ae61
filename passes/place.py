"""``Place(lane)``: the whole region on one lane."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.passes.lanes import lane_attrs, replace_region
from syncnas_tvm.passes.rule import SplitRule, register_rule
from syncnas_tvm.plan import Decision
from syncnas_tvm.work import LANES


@register_rule
class Place(SplitRule):
    """Run the region on the lane that the parameter ``lane`` names.

    Before::

        def r3(x): return conv(x)

    After::

        def r3_gpu(x): return conv(x)   # lane gpu
        def r3(x): return r3_gpu(x)
    """

    name = "Place"

    def applies(self, graph: RegionGraph, region: Region) -> bool:
        """Always: any region runs whole on any lane."""
        return True

    def variants(self, graph: RegionGraph, region: Region) -> list[Decision]:
        """One decision a lane."""
        return [Decision.of(region.name, self.name, lane=lane) for lane in LANES]

    def rewrite(
        self, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        """Move the body into a function of the lane."""
        decision.expect("lane")
        lane = decision.param("lane")
        if lane not in LANES:
            raise PlanError(f"region '{region.name}': Place has lane '{lane}'; use cpu or gpu")
        body = mod[region.name]

        def call(builder: relax.BlockBuilder, params: list[relax.Var]) -> list[relax.Expr]:
            function = body.with_attrs(lane_attrs(region.name, lane, 0))
            callee = builder.add_func(function, f"{region.name}_{lane}")
            result = builder.emit(relax.Call(callee, params))
            count = len(region.out_shapes)
            return [result] if count == 1 else [relax.TupleGetItem(result, i) for i in range(count)]

        return replace_region(mod, region, call)
