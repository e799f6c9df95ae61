"""The rows next to the cut that each lane computes first, so that they travel while it computes the rest.

A region's last kernel is cut in two on each lane: the border, whose rows the other lane's next kernels
reach, and the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.graph.rows import Bands, RowBands, RowStates

Numbers = tuple[int, int]
"""Rows of the CPU lane's band and of the GPU lane's."""


@dataclass(frozen=True, eq=False)
class EarlyRows:
    """``last``: the values of the last kernel; ``border`` and ``rest``: its rows on each lane."""

    last: frozenset[relax.Var]
    border: RowBands
    rest: RowBands


def early_rows(
    states: RowStates, groups: list[Group], cut: int, height: int, numbers: Numbers
) -> EarlyRows | None:
    """How a region whose output is cut before row ``cut`` of ``height`` computes so many rows first.

    None where a lane has no more rows than that, or the output is made by no kernel of the last phase
    alone.
    """
    parts, last = parts_of(cut, height, numbers), last_kernel(states, groups)
    if parts is None or last is None:
        return None
    try:
        border, rest = (RowBands(states, part) for part in parts)
    except ValueError:
        return None
    return EarlyRows(frozenset(node.var for node in last.nodes), border, rest)


def last_kernel(states: RowStates, groups: list[Group]) -> Group | None:
    """The kernel of the last phase that makes the output; None where one of two phases does."""
    (output,) = states.flow.outputs
    if not groups or groups[-1].nodes[-1].var != output:
        return None
    whole = all(states.phase[node.var] == states.phases - 1 for node in groups[-1].nodes)
    return groups[-1] if whole else None


def parts_of(cut: int, height: int, numbers: Numbers) -> tuple[Bands, Bands] | None:
    """The rows that each lane computes first, and then; None where a lane has none of either."""
    cpu, gpu = numbers
    if not (0 < cpu < cut and 0 < gpu < height - cut):
        return None
    return (
        {"cpu": (cut - cpu, cut), "gpu": (cut, cut + gpu)},
        {"cpu": (0, cut - cpu), "gpu": (cut + gpu, height)},
    )
