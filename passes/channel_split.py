"""``ChannelSplit(gpu_share)``: each lane takes some channels; the results meet at one sync."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.ranges import extent
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.graph.states import SplitStates
from syncnas_tvm.passes.channel_lanes import LaneCut, SplitWriter
from syncnas_tvm.passes.lanes import replace_region
from syncnas_tvm.passes.rule import SplitRule, register_rule
from syncnas_tvm.plan import Decision

SHARES = tuple(i / 16 for i in range(1, 16))


@register_rule
class ChannelSplit(SplitRule):
    """Divide the channels between the lanes; ``gpu_share`` (0 to 1) is the GPU lane's part.

    Convolutions are cut by output channel where the region's inner channels begin, everything
    channel-wise follows, and convolutions that contract the channels are cut by input channel, so
    that each lane ends with a partial sum. Bias and residual are added once, on the CPU lane. Where
    there is no such pair, as in a lone convolution, a dense layer or a stem, each lane computes some
    of the result's channels, and they are concatenated. Exact up to rounding.

    Before::

        def r3(x): return project(depthwise(expand(x))) + bias + x

    After::

        def r3_p0_gpu(x): return project[:, g](depthwise[g](expand[g](x)))             # lane gpu
        def r3_p0_cpu(x): return project[:, c](depthwise[c](expand[c](x))) + bias + x  # lane cpu
        def r3_join(a, b): return a + b                                                # sum
        def r3(x): return r3_join(r3_p0_cpu(x), r3_p0_gpu(x))
    """

    name = "ChannelSplit"

    def applies(self, graph: RegionGraph, region: Region) -> bool:
        """Where some convolution or dense layer can be divided and one value leaves the region."""
        return len(region.out_shapes) == 1 and self._states(graph, region).splits

    def variants(self, graph: RegionGraph, region: Region) -> list[Decision]:
        """Shares in sixteenths, those that cut at the same channels listed once."""
        if not self.applies(graph, region):
            return []
        states = self._states(graph, region)
        seen: dict[tuple[int, ...], Decision] = {}
        for share in SHARES:
            cut = LaneCut(states, share, "gpu")
            key = tuple(extent(ranges) for ranges in cut.all_ranges())
            seen.setdefault(key, Decision.of(region.name, self.name, gpu_share=share))
        return list(seen.values())

    def rewrite(
        self, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        """Write a lane function per lane and phase, and the joins between them."""
        decision.expect("gpu_share")
        if len(decision.regions) > 1:
            raise PlanError("channels are split in one region at a time; decide each by itself")
        share = decision.param("gpu_share")
        if not isinstance(share, int | float) or not 0 < share < 1:
            raise PlanError(
                f"region '{region.name}': gpu_share is {share!r}; use a number between 0 and 1, "
                "or Place for one lane alone"
            )
        if not self.applies(graph, region):
            raise PlanError(f"region '{region.name}' cannot be split by channels; use Place")
        states = self._states(graph, region)

        def body(builder: relax.BlockBuilder, params: list[relax.Var]) -> list[relax.Expr]:
            return SplitWriter(builder, region.name, states, float(share), params).write()

        return replace_region(mod, region, body)

    def _states(self, graph: RegionGraph, region: Region) -> SplitStates:
        """The analysis of the region as the model has it, kept on the graph."""
        cache: dict[str, SplitStates] = graph.__dict__.setdefault("_channel_states", {})
        if region.name not in cache:
            cache[region.name] = SplitStates(Dataflow(graph.function(region.name)), graph.step)
        return cache[region.name]
