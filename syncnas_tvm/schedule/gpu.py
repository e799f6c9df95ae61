"""Default schedules of the GPU lane (OpenCL), on NCHW tensors."""

from __future__ import annotations

from functools import partial

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import (
    Blocks,
    extents,
    inline_all_but_last,
    largest_divisor,
    sort_blocks,
)
from syncnas_tvm.schedule.opencl_grid import WORK_GROUP, bind_flat, bind_grid
from syncnas_tvm.schedule.tile import (
    Tile,
    fill_tile,
    settle_inputs,
    spatial_shape,
    split_output,
    write_back_block,
)

MAX_CHANNELS = 8
# Vector lengths that OpenCL C has; others are unrolled.
VECTORS = (16, 8, 4, 2)


def schedule_gpu(function: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """The function bound to work groups and work items; None where no rule fits."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    blocks = sort_blocks(sch)
    if blocks is None:
        return None
    limit = min(WORK_GROUP, int(function.attrs["target"].attrs["max_num_threads"]))
    if blocks.reduction is None:
        _spread(sch, inline_all_but_last(sch, blocks.before), limit)
    else:
        _reduce(sch, blocks, limit)
    return sch.mod["main"]


def _spread(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, limit: int) -> None:
    """An element-wise block: one element, or one vector, a work item."""
    *outer, inner = sch.get_loops(block)
    extent = extents(sch, [inner])[0]
    head, vector = sch.split(inner, [None, next((v for v in VECTORS if extent % v == 0), 1)])
    sch.vectorize(vector)
    bind_flat(sch, sch.fuse(*outer, head), limit)


def _reduce(sch: s_tir.Schedule, blocks: Blocks, limit: int) -> None:
    shape = spatial_shape(sch, blocks.reduction)
    settle_inputs(sch, blocks, partial(_spread, limit=limit))
    last = write_back_block(sch, blocks)
    width = next((v for v in VECTORS if shape[-1] % v == 0), 1)
    vector = width >= 4 or shape[-1] == width
    columns = width if vector else 1
    channels = largest_divisor(shape[1], MAX_CHANNELS) if len(shape) > 2 else 1
    outer, inner = split_output(sch, last, Tile(channels, columns))
    item = bind_grid(sch, outer, limit)
    fill_tile(sch, blocks.reduction, item, len(shape), vector)
    for loop in inner[:-1]:
        sch.unroll(loop)
    if vector:
        sch.vectorize(inner[-1])
    else:
        sch.unroll(inner[-1])
