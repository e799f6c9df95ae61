"""The blocks of a fused kernel, sorted into what the schedule rules treat differently."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir, tirx

_REDUCE = tirx.IterVar.CommReduce


@dataclass(frozen=True)
class Blocks:
    """Blocks before the one reduction, the reduction, and the blocks behind it, in order."""

    before: tuple[s_tir.schedule.SBlockRV, ...]
    reduction: s_tir.schedule.SBlockRV | None
    after: tuple[s_tir.schedule.SBlockRV, ...]


def sort_blocks(sch: s_tir.Schedule) -> Blocks | None:
    """The blocks of ``main``, or None where there is more than one reduction."""
    blocks = list(sch.get_child_blocks(sch.get_sblock("root")))
    reductions = [i for i, block in enumerate(blocks) if _reduces(sch, block)]
    if len(reductions) > 1:
        return None
    if not reductions:
        return Blocks(tuple(blocks), None, ())
    at = reductions[0]
    return Blocks(tuple(blocks[:at]), blocks[at], tuple(blocks[at + 1 :]))


def _reduces(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    return any(iv.iter_type == _REDUCE for iv in sch.get(block).iter_vars)


def inline_all_but_last(
    sch: s_tir.Schedule, blocks: tuple[s_tir.schedule.SBlockRV, ...]
) -> s_tir.schedule.SBlockRV:
    """Inline element-wise blocks into the last of them, which is returned."""
    for block in blocks[:-1]:
        sch.compute_inline(block)
    return blocks[-1]


def extents(sch: s_tir.Schedule, loops: list[s_tir.schedule.LoopRV]) -> list[int]:
    """Static extents of ``loops``."""
    return [int(sch.get(loop).extent) for loop in loops]


def largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of ``value`` that is at most ``limit``."""
    return max(d for d in range(1, min(value, limit) + 1) if value % d == 0)


def sum_rows(sch: s_tir.Schedule, at: s_tir.schedule.LoopRV) -> None:
    """Compute the block ``rows`` of a mean inside of ``at``, the loop that adds them up."""
    rows = sch.get_sblock("rows")
    sch.compute_at(rows, at, preserve_unit_loops=True)
    *_, lane, column = sch.get_loops(rows)
    sch.reorder(column, lane)
    sch.vectorize(lane)
    init = sch.decompose_reduction(rows, column)
    sch.vectorize(sch.get_loops(init)[-1])
    sch.set_scope(rows, 0, "local")
