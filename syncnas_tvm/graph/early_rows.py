"""The rows next to the cut that each lane computes first, so that they travel while it computes the rest.

A region's last kernel is cut in two on each lane: the border, whose rows the other lane's next kernels
reach, and the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.graph.rows import RowBands, RowStates

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
    border, rest = border_of(cut, numbers), rest_of(cut, height, numbers)
    (output,) = states.flow.outputs
    whole = min(numbers) > 0 and all(begin < end for begin, end in rest.values())
    if not whole or not groups or groups[-1].nodes[-1].var != output:
        return None
    last = groups[-1]
    if any(states.phase[node.var] != states.phases - 1 for node in last.nodes):
        return None
    try:
        parts = RowBands(states, border), RowBands(states, rest)
    except ValueError:
        return None
    return EarlyRows(frozenset(node.var for node in last.nodes), *parts)


def border_of(cut: int, numbers: Numbers) -> dict[str, tuple[int, int]]:
    """The rows that each lane computes first."""
    return {"cpu": (cut - numbers[0], cut), "gpu": (cut, cut + numbers[1])}


def rest_of(cut: int, height: int, numbers: Numbers) -> dict[str, tuple[int, int]]:
    """The rows that each lane computes then."""
    return {"cpu": (0, cut - numbers[0]), "gpu": (cut + numbers[1], height)}
