"""Where a region's branches and stretches run, and what that makes the lanes do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import bytes_of
from syncnas_tvm.graph.dataflow import Dataflow, Node
from syncnas_tvm.graph.forks import Nodes, Stage
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.graph.outline import leaving, outline
from syncnas_tvm.graph.seams import whole_seam
from syncnas_tvm.work import LANES, Kernel, Lane, Phase, Sync, SyncKind, Work


@dataclass(frozen=True)
class PlacedStage:
    """A stage's parts with their lanes, the GPU's first: it starts while the host goes on.

    ``join`` is empty where all is on one lane: then there is one part.
    """

    parts: tuple[tuple[Nodes, Lane], ...]
    join: Nodes = ()

    @property
    def kind(self) -> SyncKind:
        """How the parts become one value."""
        if not self.join:
            return "copy"
        return "sum" if self.join[0].op == "add" else "concat"


def placed(stages: tuple[Stage, ...], gpu: Collection[int], lane: Lane) -> list[PlacedStage]:
    """``stages`` with the branches numbered in ``gpu`` on the GPU lane, stretches on ``lane``."""
    found, first = [], 0
    for stage in stages:
        lanes: list[Lane] = [lane]
        if stage.is_fork:
            numbers = range(first, first + len(stage.branches))
            lanes = ["gpu" if number in gpu else "cpu" for number in numbers]
            first += len(stage.branches)
        if len(set(lanes)) == 1:
            nodes = sorted((n for part in (*stage.branches, stage.join) for n in part), key=_index)
            found.append(PlacedStage(((tuple(nodes), lanes[0]),)))
        else:
            parts = zip(stage.branches, lanes, strict=True)
            found.append(PlacedStage(tuple(sorted(parts, key=lambda p: p[1] != "gpu")), stage.join))
    return found


def _index(node: Node) -> int:
    return node.index


class BranchWork:
    """The work of a region for any placement; each part's kernels are looked at once a lane."""

    def __init__(self, flow: Dataflow) -> None:
        self._flow = flow
        self._kernels: dict[tuple[Nodes, Lane], tuple[Kernel, ...]] = {}

    def of(self, stages: list[PlacedStage]) -> Work:
        """The work of the region's stages as they are placed."""
        return Work(tuple(self._phase(stage) for stage in stages))

    def _phase(self, stage: PlacedStage) -> Phase:
        def all_on(lane: Lane) -> tuple[Kernel, ...]:
            own = (nodes for nodes, where in stage.parts if where == lane)
            return tuple(kernel for nodes in own for kernel in self._of(nodes, lane))

        held = {
            lane: sum(self._bytes(n) for n, own in stage.parts if own == lane) for lane in LANES
        }
        join = self._of(stage.join, "cpu") if stage.join else ()
        made = [(n.var, lane) for nodes, lane in stage.parts for n in leaving(self._flow, nodes)]
        seam = None if stage.join else whole_seam(made)
        sync = Sync(stage.kind, held["cpu"], held["gpu"], join, seam)
        return Phase(all_on("cpu"), all_on("gpu"), sync)

    def _bytes(self, nodes: Nodes) -> int:
        return bytes_of(tuple(node.var for node in leaving(self._flow, nodes)))

    def _of(self, nodes: Nodes, lane: Lane) -> tuple[Kernel, ...]:
        if (nodes, lane) not in self._kernels:
            builder = relax.BlockBuilder()
            name: tvm.ir.GlobalVar = outline(builder, self._flow, nodes, "part", {})
            groups = groups_of(builder.get()[name], lane)
            self._kernels[nodes, lane] = tuple(group.kernel for group in groups)
        return self._kernels[nodes, lane]
