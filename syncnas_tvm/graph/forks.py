"""A function as stages in a row: stretches without alternative, and forks of parallel branches.

Between two *gates* (values through which all later computation goes) there is either one stretch
of nodes, or several *branches*: parts that no value connects, until nodes that read more than one
of them, the *join*, bring them together. A branch may itself fork and join inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tvm import relax

from syncnas_tvm.graph.dataflow import Dataflow, Node
from syncnas_tvm.graph.regions import gates

Nodes = tuple[Node, ...]


@dataclass(frozen=True)
class Stage:
    """Parallel branches in the order of their first nodes, and the nodes that join them.

    A stretch without alternative is a stage of one branch and no join.
    """

    branches: tuple[Nodes, ...]
    join: Nodes = ()

    @property
    def is_fork(self) -> bool:
        """Whether there is anything to run side by side."""
        return len(self.branches) > 1


def stages_of(flow: Dataflow) -> tuple[Stage, ...]:
    """The stages of ``flow`` in order; neighbouring stretches are one."""
    ends = [0, *(node.index + 1 for node in gates(flow)), len(flow.nodes)]
    found: list[Stage] = []
    for begin, end in pairwise(ends):
        stage = _stage(flow, flow.nodes[begin:end])
        if found and not stage.is_fork and not found[-1].is_fork:
            stage = Stage((found.pop().branches[0] + stage.branches[0],))
        found.append(stage)
    return tuple(found)


def _stage(flow: Dataflow, nodes: Sequence[Node]) -> Stage:
    """What lies between two gates, divided into branches and their join."""
    may_join = _without_anchors_behind(flow, nodes)
    owner: dict[relax.Var, int] = {}
    branches: dict[int, list[Node]] = {}
    join: dict[relax.Var, Node] = {}
    for node in nodes:
        reads = [operand for operand in node.operands if isinstance(operand, relax.Var)]
        into = sorted({owner[operand] for operand in reads if operand in owner})
        if any(o in join for o in reads) or (len(into) > 1 and node.var in may_join):
            join[node.var] = node
            continue
        branch = into[0] if into else node.index
        for other in into[1:]:
            branches[branch] += branches.pop(other)
        branches.setdefault(branch, []).append(node)
        owner.update({member.var: branch for member in branches[branch]})
    if len(branches) < 2:
        return Stage((tuple(nodes),))
    ordered = (tuple(sorted(b, key=lambda node: node.index)) for _, b in sorted(branches.items()))
    return Stage(tuple(ordered), tuple(join.values()))


def _without_anchors_behind(flow: Dataflow, nodes: Sequence[Node]) -> set[relax.Var]:
    """Nodes that are no convolution or dense layer, with none behind them before the next gate."""
    light: set[relax.Var] = set()
    inside = {node.var for node in nodes}
    for node in reversed(nodes):
        readers = (reader.var for reader, _ in flow.readers.get(node.var, ()))
        if not node.is_anchor and all(var in light for var in readers if var in inside):
            light.add(node.var)
    return light
