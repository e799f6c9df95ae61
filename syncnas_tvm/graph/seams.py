"""Seams: joins that only put bands of rows together, and the rows of them that a lane reads.

Nothing has to run such a join: a lane that reads the value has a tensor for all of it, which holds the
lane's own band, and receives the rows there that it reads and lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tvm import relax

from syncnas_tvm.graph.calls import CallSite, bytes_of
from syncnas_tvm.graph.dataflow import Dataflow, shape_of
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.graph.views import is_row_view, row_view
from syncnas_tvm.work import Interval, Lane, Seam

Reads = tuple[Interval, Interval]


def joins_rows(function: relax.Function) -> bool:
    """Whether ``function`` concatenates the rows of its parameters, and does nothing else."""
    flow = Dataflow(function)
    if len(flow.nodes) != 1:
        return False
    (node,) = flow.nodes
    rows = node.op == "concat" and len(node.shape) == 4 and int(node.attrs.axis) == ROWS  # type: ignore[attr-defined]
    return rows and node.operands == flow.params and flow.outputs == (node.var,)


def joins_bands(call: CallSite, made_on: Mapping[relax.Var, Lane]) -> bool:
    """Whether ``call`` puts the CPU lane's band of rows above the GPU lane's, and does nothing else.

    A band is in one piece, or in two: what its lane computes first, next to the cut, and the rest.
    """
    lanes = [made_on.get(arg) for arg in call.args]
    pieces = (["cpu", "gpu"], ["cpu", "cpu", "gpu", "gpu"])
    return bool(call.join) and lanes in pieces and joins_rows(call.function)


def rows_read(function: relax.Function, position: int) -> Interval:
    """The rows that ``function`` reads of its parameter at ``position``, a feature map."""
    flow = Dataflow(function)
    param = flow.params[position]
    whole = (0, shape_of(param)[ROWS])
    readers = [node for node, _ in flow.readers.get(param, ())]
    if param in flow.outputs or not all(map(is_row_view, readers)):
        return whole
    views = [(row_view(flow, node.var), node.shape[ROWS]) for node in readers]
    return hull((view.first, view.first + rows) for view, rows in views if view)


def whole_seam(made: Sequence[tuple[relax.Var, Lane]]) -> Seam | None:
    """The rows of what the lanes have ``made``, where it is one feature map of one lane."""
    if len(made) != 1:
        return None
    ((value, lane),) = made
    shape = shape_of(value)
    if len(shape) != 4 or shape[ROWS] == 1:
        return None
    height = shape[ROWS]
    return Seam(height if lane == "cpu" else 0, height, bytes_of((value,)) // height)


def hull(intervals: Iterable[Interval]) -> Interval:
    """The rows from the first to the last of ``intervals``; none where there are none."""
    found = list(intervals)
    return (min(i[0] for i in found), max(i[1] for i in found)) if found else (0, 0)


def reads_of(cpu: Interval, gpu: Interval, height: int) -> Reads | None:
    """What a phase says of the rows that its lanes read; None where both read all ``height``."""
    return None if cpu == gpu == (0, height) else (cpu, gpu)
