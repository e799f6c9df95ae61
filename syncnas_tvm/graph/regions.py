"""The region finder: a model's dataflow as a chain of single-entry, single-exit regions.

A value through which all later computation has to go is a *gate*; the model is divided at those
gates that no channel class cuts. What lies between is a region: one MBConv block, the stem with
an expansion-less first block, the head with its classifier, a fork with its join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax

from syncnas_tvm.graph.channels import ChannelClasses
from syncnas_tvm.graph.dataflow import Dataflow, Node


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes with the values that enter and leave them."""

    nodes: tuple[Node, ...]
    inputs: tuple[relax.Var, ...]
    outputs: tuple[relax.Var, ...]


def gates(flow: Dataflow) -> list[Node]:
    """Nodes whose value alone separates everything before from everything after."""
    last_read = {var: readers[-1][0].index for var, readers in flow.readers.items()}
    for output in flow.outputs:
        last_read[output] = len(flow.nodes)
    alive = max((last_read.get(param, -1) for param in flow.params), default=-1)
    found = []
    for node in flow.nodes:
        is_tensor = not isinstance(node.var.ty, relax.TupleType)
        if is_tensor and alive <= node.index < len(flow.nodes) - 1 and node.var in last_read:
            found.append(node)
        alive = max(alive, last_read.get(node.var, -1))
    return found


def find_segments(flow: Dataflow) -> list[Segment]:
    """Divide ``flow`` into the segments that become regions, in order, none of them empty."""
    gate_nodes = gates(flow)
    classes = ChannelClasses(flow)
    forks = _forks_to_detach(classes, gate_nodes)
    if forks:
        classes = ChannelClasses(flow, forks)
    ends = [node.index for node in gate_nodes if classes.cut(node.var) is None]
    pieces = _pieces(flow, ends)
    return [segment_of(flow, piece, i == len(pieces) - 1) for i, piece in enumerate(pieces)]


def _forks_to_detach(classes: ChannelClasses, gate_nodes: list[Node]) -> list[relax.Var]:
    """Forking gates that tie a convolution's input channels to its own output channels.

    That is a residual around a block without expansion. Its readers may slice the whole value each
    for itself, which unties them.
    """
    tied = [cls for cls in classes.all if cls.consumers & cls.producers]
    owners = {owner for cls in tied for owner, _ in cls.elements}
    readers = classes.flow.readers
    return [node.var for node in gate_nodes if node.var in owners and len(readers[node.var]) > 1]


def _pieces(flow: Dataflow, ends: list[int]) -> list[list[Node]]:
    pieces: list[list[Node]] = [[]]
    boundaries = set(ends)
    for node in flow.nodes:
        pieces[-1].append(node)
        if node.index in boundaries:
            pieces.append([])
    # What has no convolution (a bias, an activation, a pooling) goes with what it follows.
    merged: list[list[Node]] = []
    for piece in pieces:
        if merged and not _has_anchor(piece):
            merged[-1] += piece
        elif len(merged) == 1 and not _has_anchor(merged[0]):
            merged[0] += piece
        else:
            merged.append(piece)
    return merged


def _has_anchor(nodes: list[Node]) -> bool:
    """Whether there is a convolution or dense layer among ``nodes``."""
    return any(node.is_anchor for node in nodes)


def segment_of(flow: Dataflow, nodes: Sequence[Node], is_last: bool) -> Segment:
    """Consecutive ``nodes`` as a segment; the last one has the function's own outputs."""
    inside = {node.var for node in nodes}
    inputs: dict[relax.Var, None] = {}
    for node in nodes:
        for operand in node.operands:
            if isinstance(operand, relax.Var) and operand not in inside:
                inputs[operand] = None
    outputs = flow.outputs if is_last else (nodes[-1].var,)
    for output in outputs:
        if output not in inside:
            inputs[output] = None
    return Segment(tuple(nodes), tuple(inputs), tuple(outputs))
