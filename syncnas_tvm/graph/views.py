"""Row views: slices of rows that no kernel has to copy, since their readers can start elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from syncnas_tvm.graph.cuts import slice_begins
from syncnas_tvm.graph.dataflow import Dataflow, Node
from syncnas_tvm.graph.rows import ROWS


@dataclass(frozen=True)
class RowView:
    """Rows of ``source`` (NCHW) from row ``first`` on."""

    source: relax.Expr
    first: int


def is_row_view(node: Node) -> bool:
    """Whether ``node`` slices the rows of a feature map, with stride 1, and nothing else."""
    if node.op != "strided_slice" or len(node.shape) != 4:
        return False
    begins = slice_begins(node)
    return begins is not None and set(begins) == {ROWS}


def row_view(flow: Dataflow, value: relax.Expr) -> RowView | None:
    """What ``value`` is a view of, views of views resolved; None where it is none."""
    node = flow.definer.get(value) if isinstance(value, relax.Var) else None
    if node is None or not is_row_view(node):
        return None
    first = (slice_begins(node) or {})[ROWS]
    below = row_view(flow, node.operands[0])
    return RowView(below.source, below.first + first) if below else RowView(node.operands[0], first)
