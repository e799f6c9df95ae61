"""The register tile that convolutions and dense layers share on both lanes.

A tile is ``channels`` output channels by ``columns`` neighbouring positions of the innermost dimension.
Its accumulators stay local while the reduction loops run outside of the tile; everything
element-wise behind the reduction is done as the tile is written back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import Blocks, extents, inline_all_but_last

Loop = s_tir.schedule.LoopRV
Block = s_tir.schedule.SBlockRV


@dataclass(frozen=True)
class Tile:
    """Sizes of the tile; both divide the dimensions they tile."""

    channels: int
    columns: int


def write_back_block(sch: s_tir.Schedule, blocks: Blocks) -> Block:
    """The block that writes the kernel's output; the reduction then accumulates in local memory."""
    reduction = blocks.reduction
    if not blocks.after:
        return sch.cache_write(reduction, 0, "local")
    last = inline_all_but_last(sch, blocks.after)
    sch.set_scope(reduction, 0, "local")
    return last


def settle_inputs(
    sch: s_tir.Schedule, blocks: Blocks, spread: Callable[[s_tir.Schedule, Block], None]
) -> None:
    """Inline what only copies or maps in front of the reduction; ``spread`` the rest (padding)."""
    for block in blocks.before:
        if is_pointwise(sch, block):
            sch.compute_inline(block)
        else:
            spread(sch, block)


def is_pointwise(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether a block in front of a reduction keeps the shape: it copies, or it is element-wise."""
    stmt = sch.get(block)
    shapes = [[int(n) for n in region.source.shape] for region in (*stmt.reads[:1], *stmt.writes)]
    return shapes[0] == shapes[-1]


def spatial_shape(sch: s_tir.Schedule, reduction: Block) -> list[int]:
    """Extents of the reduction's output dimensions."""
    count = sum(iv.iter_type == tirx.IterVar.DataPar for iv in sch.get(reduction).iter_vars)
    return extents(sch, list(sch.get_loops(reduction))[:count])


def split_output(sch: s_tir.Schedule, last: Block, tile: Tile) -> tuple[list[Loop], list[Loop]]:
    """Split the write-back's loops: those over tiles, and those inside of a tile."""
    loops = list(sch.get_loops(last))
    columns_out, columns_in = sch.split(loops[-1], [None, tile.columns])
    if len(loops) < 3:
        return [*loops[:-1], columns_out], [columns_in]
    channels_out, channels_in = sch.split(loops[1], [None, tile.channels])
    outer = [loops[0], channels_out, *loops[2:-1], columns_out]
    sch.reorder(*outer, channels_in, columns_in)
    return outer, [channels_in, columns_in]


def fill_tile(sch: s_tir.Schedule, reduction: Block, at: Loop, rank: int, vector: bool) -> None:
    """Compute the reduction inside of loop ``at``: reduction loops outside, the tile unrolled."""
    sch.compute_at(reduction, at, preserve_unit_loops=True)
    loops = list(sch.get_loops(reduction))
    reduced = sum(iv.iter_type == tirx.IterVar.CommReduce for iv in sch.get(reduction).iter_vars)
    tile, reduce = loops[-rank - reduced : -reduced], loops[-reduced:]
    sch.reorder(*reduce, *tile)
    _innermost(sch, tile, vector)
    init = sch.decompose_reduction(reduction, reduce[0])
    _innermost(sch, list(sch.get_loops(init))[-rank:], vector)


def _innermost(sch: s_tir.Schedule, tile: list[Loop], vector: bool) -> None:
    for loop in tile[:-1]:
        sch.unroll(loop)
    if vector:
        sch.vectorize(tile[-1])
    else:
        sch.unroll(tile[-1])
