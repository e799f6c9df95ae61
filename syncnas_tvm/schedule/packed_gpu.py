"""Schedules of packed kernels on the GPU lane (OpenCL): a work item computes a tile of vectors."""

from __future__ import annotations

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import largest_divisor, sum_rows
from syncnas_tvm.schedule.packed import Family

WORK_GROUP = 64
SMALL_WINDOW = 3


def tile_of(width: int, channel_blocks: int, accumulators: int) -> tuple[int, int]:
    """Pixels and channel vectors of a work item's tile, ``accumulators`` vectors at most."""
    pixels = largest_divisor(width, min(14, accumulators))
    if pixels == 1 and width <= accumulators:
        pixels = width
    channels = next(
        (c for c in (3, 2) if channel_blocks % c == 0 and c * pixels <= accumulators), 1
    )
    return pixels, channels


def schedule(function: tirx.PrimFunc, family: Family, accumulators: int) -> tirx.PrimFunc:
    """``function`` bound to work groups and work items."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    if family == "elementwise":
        *outer, vector = sch.get_loops(sch.get_sblock("out"))
        sch.vectorize(vector)
        _bind_flat(sch, sch.fuse(*outer))
    elif family == "reduce":
        _reduce(sch)
    else:
        _tiled(sch, family, accumulators)
    return sch.mod["main"]


def schedule_conversion(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A change of layout: one element a work item."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    _bind_flat(sch, sch.fuse(*sch.get_loops(sch.get_sblock("out"))))
    return sch.mod["main"]


def _bind_flat(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV) -> None:
    group, item = sch.split(loop, [None, min(WORK_GROUP, int(sch.get(loop).extent))])
    sch.bind(group, "blockIdx.x")
    sch.bind(item, "threadIdx.x")


def _bind(sch: s_tir.Schedule, loops: list[s_tir.schedule.LoopRV]) -> s_tir.schedule.LoopRV:
    """Bind three loops to the grid, the last to x; the innermost work-item loop.

    They are not fused, and work groups divide them: other indices are not affine enough for the
    reduction to be decomposed.
    """
    limit, groups, items = WORK_GROUP, [], []
    for loop in reversed(loops):
        size = largest_divisor(int(sch.get(loop).extent), limit)
        limit //= size
        group, item = sch.split(loop, [None, size])
        groups.insert(0, group)
        items.insert(0, item)
    sch.reorder(*groups, *items)
    for axis, group, item in zip("zyx", groups, items, strict=True):
        sch.bind(group, f"blockIdx.{axis}")
        sch.bind(item, f"threadIdx.{axis}")
    return items[-1]


def _reduce(sch: s_tir.Schedule) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    item = _bind(sch, [o, y, x])
    sch.vectorize(v)
    _accumulate(sch, acc, item, unroll_window=False)
    sum_rows(sch, sch.get_loops(acc)[-5])


def _tiled(sch: s_tir.Schedule, family: Family, accumulators: int) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    block_count, width = (int(sch.get(loop).extent) for loop in (o, x))
    dense = family in ("dense", "stem")
    pixels, channels = tile_of(width, block_count if dense else 1, accumulators)
    o_out, o_in = sch.split(o, [None, channels])
    x_out, x_in = sch.split(x, [None, pixels])
    sch.reorder(o_out, y, x_out, o_in, x_in, v)
    _pad(sch, family, acc)
    item = _bind(sch, [o_out, y, x_out])
    _accumulate(sch, acc, item, unroll_window=not dense)
    sch.vectorize(v)
    sch.unroll(x_in)
    sch.unroll(o_in)


def _accumulate(
    sch: s_tir.Schedule,
    acc: s_tir.schedule.SBlockRV,
    item: s_tir.schedule.LoopRV,
    unroll_window: bool,
) -> None:
    sch.compute_at(acc, item, preserve_unit_loops=True)
    outside = len(sch.get_loops(sch.get_sblock("out"))) - _tile_rank(sch)
    loops = list(sch.get_loops(acc))[outside:]
    o_t, y_t, x_t, v_t = loops[:4]
    reduce = loops[4:]
    sch.reorder(*reduce, y_t, x_t, o_t, v_t)
    sch.vectorize(v_t)
    # A window's columns are unrolled, its rows not: a driver compiles 9 x 9 of them for seconds.
    for loop in (y_t, x_t, o_t, *(reduce[-1:] if unroll_window else [])):
        sch.unroll(loop)
    init = sch.decompose_reduction(acc, reduce[0])
    *tile_init, v_init = list(sch.get_loops(init))[outside:]
    sch.vectorize(v_init)
    for loop in tile_init:
        sch.unroll(loop)
    sch.set_scope(acc, 0, "local")


def _tile_rank(sch: s_tir.Schedule) -> int:
    """Loops of the block ``out`` inside of the innermost work-item loop."""
    kinds = [sch.get(loop).kind for loop in sch.get_loops(sch.get_sblock("out"))]
    return len(kinds) - 1 - max(i for i, k in enumerate(kinds) if k == tirx.ForKind.THREAD_BINDING)


def _pad(sch: s_tir.Schedule, family: Family, acc: s_tir.schedule.SBlockRV) -> None:
    """Small windows check the border at each read; larger ones read a padded copy."""
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    if "pad" not in names:
        return
    pad = sch.get_sblock("pad")
    window = int(sch.get(sch.get_loops(acc)[-1]).extent)
    if family in ("depthwise", "pool") and window <= SMALL_WINDOW:
        sch.compute_inline(pad)
        return
    *outer, last = sch.get_loops(pad)
    if family == "stem":
        _bind_flat(sch, sch.fuse(*outer, last))
    else:
        sch.vectorize(last)
        _bind_flat(sch, sch.fuse(*outer))
