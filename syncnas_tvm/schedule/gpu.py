"""Default schedules of the GPU lane (OpenCL), on NCHW tensors."""

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
    is_pointwise,
    spatial_shape,
    split_output,
    write_back_block,
)

MAX_CHANNELS = 8
# Vector lengths that OpenCL C has; others are unrolled.
VECTORS = (16, 8, 4, 2)
WORK_GROUP = 64


def schedule_gpu(function: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """The function bound to work groups and work items; None where no rule fits."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    blocks = sort_blocks(sch)
    if blocks is None:
        return None
    if blocks.reduction is None:
        _spread(sch, inline_all_but_last(sch, blocks.before))
    else:
        _reduce(sch, blocks, int(function.attrs["target"].attrs["max_num_threads"]))
    return sch.mod["main"]


def _spread(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """An element-wise block: one element, or one vector, a work item."""
    *outer, inner = sch.get_loops(block)
    extent = extents(sch, [inner])[0]
    head, vector = sch.split(inner, [None, next((v for v in VECTORS if extent % v == 0), 1)])
    sch.vectorize(vector)
    _bind(sch, sch.fuse(*outer, head), WORK_GROUP)


def _bind(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, limit: int) -> None:
    items = min(limit, extents(sch, [loop])[0])
    group, item = sch.split(loop, [None, items])
    sch.bind(group, "blockIdx.x")
    sch.bind(item, "threadIdx.x")


def _bind_grid(
    sch: s_tir.Schedule, loops: list[s_tir.schedule.LoopRV], limit: int
) -> s_tir.schedule.LoopRV:
    """Bind up to three loops to the grid, innermost to x; returns the innermost item loop.

    Loops are not fused and work groups divide them: fused or guarded loops make indices that
    decompose_reduction does not take for affine.
    """
    while len(loops) > 3:
        loops = [sch.fuse(*loops[:2]), *loops[2:]]
    groups, items = [], []
    for loop in reversed(loops):
        size = largest_divisor(extents(sch, [loop])[0], limit)
        limit //= size
        group, item = sch.split(loop, [None, size])
        groups.insert(0, group)
        items.insert(0, item)
    sch.reorder(*groups, *items)
    for axis, group, item in zip("xyz", reversed(groups), reversed(items), strict=False):
        sch.bind(group, f"blockIdx.{axis}")
        sch.bind(item, f"threadIdx.{axis}")
    return items[-1]


def _reduce(sch: s_tir.Schedule, blocks: Blocks, max_threads: int) -> None:
    shape = spatial_shape(sch, blocks.reduction)
    for block in blocks.before:
        if is_pointwise(sch, block):
            sch.compute_inline(block)
        else:
            _spread(sch, block)
    last = write_back_block(sch, blocks)
    width = next((v for v in VECTORS if shape[-1] % v == 0), 1)
    vector = width >= 4 or shape[-1] == width
    columns = width if vector else 1
    channels = largest_divisor(shape[1], MAX_CHANNELS) if len(shape) > 2 else 1
    outer, inner = split_output(sch, last, Tile(channels, columns))
    item = _bind_grid(sch, outer, min(WORK_GROUP, max_threads))
    fill_tile(sch, blocks.reduction, item, len(shape), vector)
    for loop in inner[:-1]:
        sch.unroll(loop)
    if vector:
        sch.vectorize(inner[-1])
    else:
        sch.unroll(inner[-1])
