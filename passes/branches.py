"""``Branches(gpu_branches, lane)``: a region's parallel branches run on different lanes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import tvm
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.branch_work import BranchWork, PlacedStage, placed
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.forks import Nodes, Stage, stages_of
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.passes.branch_lanes import BranchWriter
from syncnas_tvm.passes.lanes import replace_region
from syncnas_tvm.passes.rule import SplitRule, register_rule
from syncnas_tvm.plan import Decision
from syncnas_tvm.work import LANES, Work

LEAST_PARALLEL = 0.05
"""Share of a region's multiply-adds that has to have something to run beside it."""
MOST_SUBSETS = 4
"""Up to so many branches every way to share them out is tried; beyond, list scheduling."""
SPEED_RATIOS = (1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 3 / 2, 2, 3, 4, 8)
"""Speeds of the GPU lane, as multiples of the CPU lane's, that list scheduling is done for."""


@register_rule
class Branches(SplitRule):
    """Run branches that the model already has side by side; they meet at the model's own join.

    Branches are numbered in the order of their first nodes, through all forks of the region;
    ``gpu_branches`` names the GPU lane's, as in ``"1,2"``. What lies between forks, if anything
    does, runs on ``lane``. Nothing is computed twice or differently, so the result is the model's
    own to the last bit of the kernels used.

    Before::

        def r3(x): return left(x) + right(x)

    After (``gpu_branches`` "0")::

        def r3_p0_b0_gpu(x): return left(x)     # lane gpu
        def r3_p0_b1_cpu(x): return right(x)    # lane cpu
        def r3_join0(a, b): return a + b        # sum
        def r3(x): return r3_join0(r3_p0_b0_gpu(x), r3_p0_b1_cpu(x))
    """

    name = "Branches"

    def applies(self, graph: RegionGraph, region: Region) -> bool:
        """Where there is a fork, and one value leaves the region."""
        return len(region.out_shapes) == 1 and any(
            s.is_fork for s in self._known(graph, region).stages
        )

    def variants(self, graph: RegionGraph, region: Region) -> list[Decision]:
        """The ways to share out the branches, if enough of the work lies side by side."""
        stages = self._known(graph, region).stages
        if not self.applies(graph, region) or _parallel_macs(stages) < LEAST_PARALLEL * region.macs:
            return []
        lanes = LANES if any(not stage.is_fork for stage in stages) else LANES[:1]
        return [
            Decision.of(region.name, self.name, gpu_branches=",".join(map(str, gpu)), lane=lane)
            for gpu in _assignments(stages)
            for lane in lanes
        ]

    def work(self, graph: RegionGraph, region: Region, decision: Decision) -> Work:
        """As the rewritten region would have it, without writing it once more for each variant."""
        known = self._known(graph, region)
        return known.work.of(self._placed(known.stages, region, decision))

    def rewrite(
        self, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        """Write a lane function per branch and stretch, and a join per fork."""
        flow = Dataflow(mod[region.name])
        stages = self._placed(stages_of(flow), region, decision)

        def body(builder: relax.BlockBuilder, params: list[relax.Var]) -> list[relax.Expr]:
            return BranchWriter(builder, region.name, flow, params).write(stages)

        return replace_region(mod, region, body)

    def _known(self, graph: RegionGraph, region: Region) -> _Known:
        """The analysis of the region as the model has it, kept on the graph."""
        cache: dict[str, _Known] = graph.__dict__.setdefault("_branches", {})
        if region.name not in cache:
            flow = Dataflow(graph.function(region.name))
            cache[region.name] = _Known(stages_of(flow), BranchWork(flow))
        return cache[region.name]

    @staticmethod
    def _placed(stages: tuple[Stage, ...], region: Region, decision: Decision) -> list[PlacedStage]:
        """``stages`` as the decision places them."""
        count = sum(len(stage.branches) for stage in stages if stage.is_fork)
        decision.expect("gpu_branches", "lane")
        text, lane = decision.param("gpu_branches"), decision.param("lane")
        names = text.split(",") if isinstance(text, str) else []
        numbers = frozenset(int(name) for name in names if name.strip().isdecimal())
        if len(numbers) != len(names) or not 0 < len(numbers) < count or max(numbers) >= count:
            raise PlanError(
                f"region '{region.name}': gpu_branches is {text!r}; name some but not all of its "
                f'branches 0 to {count - 1}, as in "0,1"'
            )
        if lane not in LANES:
            raise PlanError(f"region '{region.name}': Branches has lane '{lane}'; use cpu or gpu")
        return placed(stages, numbers, lane)


@dataclass(frozen=True)
class _Known:
    """What the rule has found out about a region."""

    stages: tuple[Stage, ...]
    work: BranchWork


def _macs(nodes: Nodes) -> int:
    return sum(node.macs for node in nodes)


def _parallel_macs(stages: tuple[Stage, ...]) -> int:
    """Multiply-adds that can run beside others: all of each fork's but its largest branch's."""
    sizes = [[_macs(branch) for branch in stage.branches] for stage in stages]
    return sum(sum(fork) - max(fork) for fork in sizes)


def _assignments(stages: tuple[Stage, ...]) -> list[tuple[int, ...]]:
    """Sets of branches for the GPU lane, each once; both lanes have some."""
    forks: list[range] = []
    sizes: list[int] = []
    for stage in stages:
        if stage.is_fork:
            forks.append(range(len(sizes), len(sizes) + len(stage.branches)))
            sizes += [_macs(branch) for branch in stage.branches]
    if len(sizes) <= MOST_SUBSETS:
        return [c for n in range(1, len(sizes)) for c in combinations(range(len(sizes)), n)]
    found = (
        tuple(sorted(n for fork in forks for n in _list_schedule(fork, sizes, ratio)))
        for ratio in SPEED_RATIOS
    )
    return [gpu for gpu in dict.fromkeys(found) if 0 < len(gpu) < len(sizes)]


def _list_schedule(fork: range, sizes: list[int], gpu_speed: float) -> Iterator[int]:
    """The GPU lane's branches of one fork: the longest first, each to the lane that ends first.

    Graham's list scheduling in order of processing time (LPT), for two machines of unlike speed.
    """
    cpu_ends = gpu_ends = 0.0
    for branch in sorted(fork, key=lambda n: -sizes[n]):
        on_cpu, on_gpu = cpu_ends + sizes[branch], gpu_ends + sizes[branch] / gpu_speed
        if on_gpu < on_cpu:
            gpu_ends = on_gpu
            yield branch
        else:
            cpu_ends = on_cpu
