"""Schedules of packed kernels on the GPU lane (OpenCL): a work item computes a tile of vectors."""

from __future__ import annotations

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import sum_rows
from syncnas_tvm.schedule.opencl_grid import WORK_GROUP, bind_flat, bind_grid
from syncnas_tvm.schedule.packed_definition import SMALL_WINDOW, Family
from syncnas_tvm.schedule.packed_tile import accumulate, add_up, pad_block, token_tile
from syncnas_tvm.schedule.texture import fetch_texels
from syncnas_tvm.schedule.tiling import Tiling

# Loops down to the innermost work item: three of work groups, three of items.
GRID_LOOPS = 6


def apply(sch: s_tir.Schedule, family: Family, tiling: Tiling) -> None:
    """Work groups and work items."""
    if family == "elementwise":
        *outer, vector = sch.get_loops(sch.get_sblock("out"))
        sch.vectorize(vector)
        bind_flat(sch, sch.fuse(*outer), tiling.items)
    elif family == "reduce":
        _reduce(sch, tiling)
    elif family == "matmul":
        _matmul(sch, tiling)
    elif family == "tokens":
        _tokens(sch, tiling)
    else:
        _tiled(sch, family, tiling)


def schedule_conversion(function: tirx.PrimFunc, max_items: int) -> tirx.PrimFunc:
    """A change of layout: one element a work item, ``max_items`` of them at most in a group."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    loop = sch.fuse(*sch.get_loops(sch.get_sblock("out")))
    bind_flat(sch, loop, min(WORK_GROUP, max_items))
    return sch.mod["main"]


def _reduce(sch: s_tir.Schedule, tiling: Tiling) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    item = bind_grid(sch, [o, y, x], tiling.items)
    sch.vectorize(v)
    accumulate(sch, acc, item, GRID_LOOPS, unrolled=0)
    sum_rows(sch, sch.get_loops(acc)[-5])


def _matmul(sch: s_tir.Schedule, tiling: Tiling) -> None:
    """A work item computes a row of vectors of outputs."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    total = sch.cache_write(acc, 0, "local")
    row, group, column, lane = sch.get_loops(total)
    grid = [row, group]
    if tiling.channels < int(sch.get(column).extent):
        part, column = sch.split(column, [None, tiling.channels])
        grid.append(part)
    item = bind_grid(sch, grid, tiling.items)
    sch.unroll(column)
    sch.vectorize(lane)
    sch.compute_at(acc, item, preserve_unit_loops=True)
    add_up(sch, acc, outside=2 * len(grid))
    bind_flat(sch, sch.fuse(*sch.get_loops(out)), min(WORK_GROUP, tiling.items))


def _tokens(sch: s_tir.Schedule, tiling: Tiling) -> None:
    """A work item computes a tile of rows by vectors."""
    acc = sch.get_sblock("acc")
    grid = token_tile(sch, tiling)
    item = bind_grid(sch, grid, tiling.items)
    sch.compute_at(acc, item, preserve_unit_loops=True)
    add_up(sch, acc, outside=len(sch.get_loops(acc)) - 5)
    sch.set_scope(acc, 0, "local")


def _tiled(sch: s_tir.Schedule, family: Family, tiling: Tiling) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    o_out, o_in = sch.split(o, [None, tiling.channels])
    x_out, x_in = sch.split(x, [None, tiling.pixels])
    sch.reorder(o_out, y, x_out, o_in, x_in, v)
    _pad(sch, family, acc, min(WORK_GROUP, tiling.items))
    item = bind_grid(sch, [o_out, y, x_out], tiling.items)
    accumulate(sch, acc, item, GRID_LOOPS, tiling.unrolled)
    fetch_texels(sch, acc, sch.get_loops(acc)[-5])
    sch.vectorize(v)
    sch.unroll(x_in)
    sch.unroll(o_in)


def _pad(sch: s_tir.Schedule, family: Family, acc: s_tir.schedule.SBlockRV, limit: int) -> None:
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
        bind_flat(sch, sch.fuse(*outer, last), limit)
    else:
        sch.vectorize(last)
        bind_flat(sch, sch.fuse(*outer), limit)
