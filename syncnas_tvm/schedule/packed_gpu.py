"""Schedules of packed kernels on the GPU lane (OpenCL): a work item computes a tile of vectors."""

from __future__ import annotations

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import sum_rows
from syncnas_tvm.schedule.opencl_grid import bind_flat, bind_grid
from syncnas_tvm.schedule.packed import Family
from syncnas_tvm.schedule.packed_tile import accumulate, add_up, pad_block, tile_of

SMALL_WINDOW = 3
# Loops down to the innermost work item: three of work groups, three of items.
GRID_LOOPS = 6


def schedule(function: tirx.PrimFunc, family: Family, accumulators: int) -> tirx.PrimFunc:
    """``function`` bound to work groups and work items."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    if family == "elementwise":
        *outer, vector = sch.get_loops(sch.get_sblock("out"))
        sch.vectorize(vector)
        bind_flat(sch, sch.fuse(*outer))
    elif family == "reduce":
        _reduce(sch)
    elif family == "matmul":
        _matmul(sch)
    else:
        _tiled(sch, family, accumulators)
    return sch.mod["main"]


def schedule_conversion(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A change of layout: one element a work item."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    bind_flat(sch, sch.fuse(*sch.get_loops(sch.get_sblock("out"))))
    return sch.mod["main"]


def _reduce(sch: s_tir.Schedule) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    item = bind_grid(sch, [o, y, x])
    sch.vectorize(v)
    accumulate(sch, acc, item, GRID_LOOPS, unrolled=0)
    sum_rows(sch, sch.get_loops(acc)[-5])


def _matmul(sch: s_tir.Schedule) -> None:
    """A work item computes a row of ``columns`` vectors of outputs."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    total = sch.cache_write(acc, 0, "local")
    row, group, column, lane = sch.get_loops(total)
    item = bind_grid(sch, [row, group])
    sch.unroll(column)
    sch.vectorize(lane)
    sch.compute_at(acc, item, preserve_unit_loops=True)
    add_up(sch, acc, outside=4)
    bind_flat(sch, sch.fuse(*sch.get_loops(out)))


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
    item = bind_grid(sch, [o_out, y, x_out])
    # A window's columns are unrolled, its rows not: a driver compiles 9 x 9 of them for seconds.
    accumulate(sch, acc, item, GRID_LOOPS, unrolled=0 if dense else 1)
    sch.vectorize(v)
    sch.unroll(x_in)
    sch.unroll(o_in)


def _pad(sch: s_tir.Schedule, family: Family, acc: s_tir.schedule.SBlockRV) -> None:
    """A small pooling checks the border at each read; the others read a padded copy."""
    pad = pad_block(sch)
    if pad is None:
        return
    window = int(sch.get(sch.get_loops(acc)[-1]).extent)
    if family == "pool" and window <= SMALL_WINDOW:
        sch.compute_inline(pad)
        return
    *outer, last = sch.get_loops(pad)
    if family == "stem":
        bind_flat(sch, sch.fuse(*outer, last))
    else:
        sch.vectorize(last)
        bind_flat(sch, sch.fuse(*outer))
