"""Default schedules of the CPU lane, on NCHW tensors."""

from __future__ import annotations

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import (
    Blocks,
    extents,
    inline_all_but_last,
    largest_divisor,
    sort_blocks,
)
from syncnas_tvm.schedule.tile import (
    Tile,
    fill_tile,
    settle_inputs,
    spatial_shape,
    split_output,
    write_back_block,
)

MAX_VECTOR = 16
MAX_CHANNELS = 8


def schedule_cpu(function: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """The function with its loops tiled, vectorised and parallel; None where no rule fits."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    blocks = sort_blocks(sch)
    if blocks is None:
        return None
    if blocks.reduction is None:
        _spread(sch, inline_all_but_last(sch, blocks.before))
    else:
        _reduce(sch, blocks)
    return sch.mod["main"]


def _spread(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """An element-wise block: outer loops in parallel, the innermost in vectors."""
    *outer, inner = sch.get_loops(block)
    head, vector = sch.split(inner, [None, largest_divisor(extents(sch, [inner])[0], MAX_VECTOR)])
    sch.vectorize(vector)
    sch.parallel(sch.fuse(*outer, head))


def _reduce(sch: s_tir.Schedule, blocks: Blocks) -> None:
    shape = spatial_shape(sch, blocks.reduction)
    settle_inputs(sch, blocks, _spread)
    last = write_back_block(sch, blocks)
    if shape[-1] > MAX_VECTOR and largest_divisor(shape[-1], MAX_VECTOR) < MAX_VECTOR // 2:
        _reduce_rows(sch, blocks.reduction, last, len(shape))
        return
    channels = largest_divisor(shape[1], MAX_CHANNELS) if len(shape) > 2 else 1
    tile = Tile(channels, largest_divisor(shape[-1], MAX_VECTOR if len(shape) > 2 else 64))
    outer, inner = split_output(sch, last, tile)
    # Not fused: a fused loop makes indices that decompose_reduction does not take for affine.
    sch.parallel(next((loop for loop in outer if extents(sch, [loop])[0] > 1), outer[0]))
    fill_tile(sch, blocks.reduction, outer[-1], len(shape), vector=True)
    for loop in inner[:-1]:
        sch.unroll(loop)
    sch.vectorize(inner[-1])


def _reduce_rows(
    sch: s_tir.Schedule,
    reduction: s_tir.schedule.SBlockRV,
    last: s_tir.schedule.SBlockRV,
    rank: int,
) -> None:
    """Rows that no vector divides: the innermost loop goes through a row, and LLVM makes its vectors."""
    *outer, _ = sch.get_loops(last)
    sch.parallel(next((loop for loop in outer if extents(sch, [loop])[0] > 1), outer[0]))
    sch.compute_at(reduction, outer[-1], preserve_unit_loops=True)
    loops = list(sch.get_loops(reduction))[len(outer) :]
    tile, reduce = loops[:rank], loops[rank:]
    sch.reorder(*reduce, *tile)
    sch.decompose_reduction(reduction, reduce[0])
