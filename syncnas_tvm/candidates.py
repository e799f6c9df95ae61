"""All that can be decided for a model: every variant of every rule on every region."""

from __future__ import annotations

from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.passes.rule import rules
from syncnas_tvm.passes.rule_contract import proposals, proposed
from syncnas_tvm.plan import Decision
from syncnas_tvm.planner import Candidate, Space
from syncnas_tvm.work import Work


def decision_space(graph: RegionGraph, types: LaneTypes = FLOAT32) -> Space:
    """The planner's decision space of ``graph`` with lanes of ``types``; raises RuleError naming a rule that fails."""

    def unlisted(decision: Decision) -> Work:
        return types.work(proposed(graph, decision))

    return Space(
        graph.names,
        tuple(
            tuple(
                Candidate(decision, len(decision.regions), types.work(work))
                for rule in rules()
                for decision, work in proposals(rule, graph, region)
            )
            for region in graph.regions
        ),
        unlisted,
    )
