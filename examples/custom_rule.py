"""A split rule of one's own: cuts in thirds, where the built-in rule cuts in eighths.

    python examples/custom_rule.py model.onnx

Registered, it takes part in the search, the timeline, the rewriting, plans as JSON and the report.
An installed package registers its rules through the entry point group `syncnas_tvm.rules` instead,
and the commands see them too.
"""

import sys

import syncnas_tvm
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.passes.channel_split import ChannelSplit
from syncnas_tvm.passes.rule import register_rule


@register_rule
class Thirds(ChannelSplit):
    """``Thirds(gpu_share)``: the GPU lane takes one or two thirds of a region's channels."""

    name = "Thirds"

    def variants(self, graph: RegionGraph, region: Region) -> list[syncnas_tvm.Decision]:
        """Two decisions per region, where channels can be cut at all."""
        if not self.applies(graph, region):
            return []
        shares = (1 / 3, 2 / 3)
        return [syncnas_tvm.Decision.of(region.name, self.name, gpu_share=s) for s in shares]


if __name__ == "__main__":
    result = syncnas_tvm.compile_onnx(sys.argv[1], split_all=True)
    for decision in result.plan.decisions:
        print(", ".join(decision.regions), decision.rule, dict(decision.params))
    print(result.deviation)
