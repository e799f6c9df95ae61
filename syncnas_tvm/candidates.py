"""All that can be decided for a model: every variant of every rule on every region."""

from __future__ import annotations

from syncnas_tvm.errors import RuleError, SyncNASError
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.passes.rule import rules
from syncnas_tvm.planner import Candidate, Space


def decision_space(graph: RegionGraph, types: LaneTypes = FLOAT32) -> Space:
    """The planner's decision space of ``graph`` with lanes of ``types``; raises RuleError naming a rule that fails."""
    per_region = []
    for region in graph.regions:
        here = []
        for rule in rules():
            try:
                for decision in rule.variants(graph, region) if rule.applies(graph, region) else ():
                    run = graph.run(decision.regions)
                    work = types.work(rule.work(graph, run, decision))
                    here.append(Candidate(decision, len(decision.regions), work))
            except SyncNASError:
                raise
            except Exception as error:
                raise RuleError(
                    f"split rule {rule.name} failed on region '{region.name}': {error}"
                ) from error
        per_region.append(tuple(here))
    return Space(graph.names, tuple(per_region))
