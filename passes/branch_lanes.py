"""Writes a region's branches as lane functions, and their joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import relax

from syncnas_tvm.graph.branch_work import PlacedStage
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.forks import Nodes
from syncnas_tvm.graph.outline import leaving, outline, reads
from syncnas_tvm.graph.rebuild import emit_call
from syncnas_tvm.passes.lanes import join_attrs, lane_attrs


class BranchWriter:
    """Emits a lane function per branch and stretch, and a join per fork, into a region's body."""

    def __init__(
        self, builder: relax.BlockBuilder, region: str, flow: Dataflow, params: list[relax.Var]
    ) -> None:
        self._builder = builder
        self._region = region
        self._flow = flow
        self._values: dict[relax.Var, relax.Expr] = dict(zip(flow.params, params, strict=True))

    def write(self, stages: Sequence[PlacedStage]) -> list[relax.Expr]:
        """Emit everything; the region's results."""
        for phase, stage in enumerate(stages):
            for number, (nodes, lane) in enumerate(stage.parts):
                name = f"{self._region}_p{phase}_b{number}_{lane}"
                self._call(name, nodes, lane_attrs(self._region, lane, phase))
            if stage.join:
                attrs = join_attrs(self._region, stage.kind, phase)
                self._call(f"{self._region}_join{phase}", stage.join, attrs)
        return [self._values[output] for output in self._flow.outputs]

    def _call(self, name: str, nodes: Nodes, attrs: Mapping[str, object]) -> None:
        callee = outline(self._builder, self._flow, nodes, name, attrs)
        args = [self._values[var] for var in reads(nodes)]
        results = [node.var for node in leaving(self._flow, nodes)]
        values = emit_call(self._builder, callee, args, len(results), name)
        self._values.update(zip(results, values, strict=True))
