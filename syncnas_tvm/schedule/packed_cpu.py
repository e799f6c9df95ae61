"""Schedules of packed kernels on the CPU lane.

The accumulators of a tile (pixels by channel vectors) stay in registers while the reduction runs;
``cpu_tilings`` says which tiles there are.
"""

from __future__ import annotations

from math import prod

from tvm import s_tir, tirx

from syncnas_tvm.schedule import packed_tile
from syncnas_tvm.schedule.blocks import extents, largest_divisor, sum_rows
from syncnas_tvm.schedule.half_sums import accumulate_parts, has_parts
from syncnas_tvm.schedule.packed_definition import Family
from syncnas_tvm.schedule.prefetch import MARK
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.winograd import OUT

# Weights that stay in a first-level cache, in bytes: they are there before a few rows are done.
NEAR = 32 << 10
# LLVM writes out sums of fewer multiply-adds whole, prefetches with them, and then lacks registers.
WRITTEN_OUT = 1024


def apply(sch: s_tir.Schedule, family: Family, tiling: Tiling) -> None:
    """Tiles, vectors and parallel loops."""
    if family == "elementwise":
        _elementwise(sch, tiling)
    elif family == "reduce":
        _reduce(sch)
    elif family == "matmul":
        _matmul(sch, tiling)
    elif family == "tokens":
        _tokens(sch, tiling)
    elif family == "winograd":
        _winograd(sch, tiling)
    else:
        _tiled(sch, family, tiling)


def _elementwise(sch: s_tir.Schedule, tiling: Tiling) -> None:
    *outer, vector = sch.get_loops(sch.get_sblock("out"))
    sch.vectorize(vector)
    if tiling.pixels > 1:
        outer[-1], pixel = sch.split(outer[-1], [None, tiling.pixels])
        sch.unroll(pixel)
    sch.parallel(sch.fuse(*outer))


def schedule_conversion(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A change of layout: parallel over the outer loop."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    first, second, *_ = sch.get_loops(sch.get_sblock("out"))
    sch.parallel(sch.fuse(first, second))
    return sch.mod["main"]


def _reduce(sch: s_tir.Schedule) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, _y, _x, v = sch.get_loops(out)
    sch.parallel(o)
    sch.vectorize(v)
    sch.compute_at(acc, o, preserve_unit_loops=True)
    *_, lane, ry = sch.get_loops(acc)
    sch.reorder(ry, lane)
    sch.vectorize(lane)
    sum_rows(sch, ry)
    init = sch.decompose_reduction(acc, ry)
    sch.vectorize(sch.get_loops(init)[-1])


def _matmul(sch: s_tir.Schedule, tiling: Tiling) -> None:
    """Each input is multiplied with a row of vectors, which lie one behind the other."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    total = sch.cache_write(acc, 0, "local")
    row, group, column, _v = sch.get_loops(total)
    sch.reorder(group, row)
    sch.parallel(group)
    if tiling.channels < int(sch.get(column).extent):
        at, _ = sch.split(column, [None, tiling.channels])
        sch.compute_at(acc, at, preserve_unit_loops=True)
        packed_tile.add_up(sch, acc, outside=3)
    else:
        sch.compute_at(acc, row, preserve_unit_loops=True)
        packed_tile.add_up(sch, acc, outside=2)
    *_, column, lane = sch.get_loops(total)
    sch.unroll(column)
    sch.vectorize(lane)
    row, n = sch.get_loops(out)
    _outer, lane = sch.split(n, [None, largest_divisor(int(sch.get(n).extent), 16)])
    sch.vectorize(lane)


def _tokens(sch: s_tir.Schedule, tiling: Tiling) -> None:
    """A group's weights stay in the cache while the rows pass by; a tile's sums are in registers."""
    acc = sch.get_sblock("acc")
    group, row = packed_tile.token_tile(sch, tiling)
    sch.parallel(group)
    sch.compute_at(acc, row, preserve_unit_loops=True)
    outside = len(sch.get_loops(acc)) - 5
    packed_tile.add_up(sch, acc, outside)
    sch.set_scope(acc, 0, "local")


def _winograd(sch: s_tir.Schedule, tiling: Tiling) -> None:
    """Rows of tiles in groups: what is transformed stays in the cache while it is multiplied."""
    data, acc, out = (sch.get_sblock(name) for name in ("data", "acc", "out"))
    _pad(sch, "dense")
    total = sch.cache_write(acc, 0, "local")
    o, y, x, v = sch.get_loops(out)
    y_out, y_in, y_two = sch.split(y, [None, tiling.rows, OUT])
    x_out, x_two = sch.split(x, [None, OUT])
    o_out, o_in = sch.split(o, [None, tiling.channels])
    sch.reorder(y_out, o_out, o_in, y_in, x_out, y_two, x_two, v)
    sch.parallel(y_out)
    # The sums of a group of output channels, then their outputs.
    sch.compute_at(total, o_out, preserve_unit_loops=True)
    xi, nu, to, ty, tx, tv = list(sch.get_loops(total))[2:]
    tx_out, tx_in = sch.split(tx, [None, tiling.pixels])
    sch.reorder(xi, nu, ty, tx_out, to, tx_in, tv)
    sch.compute_at(acc, tx_out, preserve_unit_loops=True)
    outside = len(sch.get_loops(acc)) - 8
    _, _, ao, _, ax, lane, i, vi = list(sch.get_loops(acc))[outside:]
    sch.reorder(i, vi, ax, ao, lane)
    for loop in (ax, ao, to, tx_in, y_two, x_two):
        sch.unroll(loop)
    for loop in (lane, tv, v):
        sch.vectorize(loop)
    packed_tile.set_to_zero(sch, acc, i, outside)
    # The inputs of a group of rows, transformed once for all output channels.
    sch.compute_at(data, y_out, preserve_unit_loops=True)
    dxi, dnu, di, dy, dx, dv = list(sch.get_loops(data))[1:]
    sch.reorder(di, dy, dx, dxi, dnu, dv)
    sch.unroll(dxi)
    sch.unroll(dnu)
    sch.vectorize(dv)


def _tiled(sch: s_tir.Schedule, family: Family, tiling: Tiling) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    rows = int(sch.get(y).extent)
    o_out, o_in = sch.split(o, [None, tiling.channels])
    x_out, x_in = sch.split(x, [None, tiling.pixels])
    # Pixels outside of channels: a pixel's inputs stay in the cache while the weights stream by.
    order = (o_out, y, x_out) if tiling.channels_first else (y, x_out, o_out)
    sch.reorder(*order, o_in, x_in, v)
    # Two loops for the threads to share: one alone may be short.
    first, last = sch.fuse(*order[:2]), order[2]
    sch.parallel(first)
    _pad(sch, family)
    packed_tile.accumulate(sch, acc, last, 2, tiling.unrolled)
    if family == "dense" and has_parts(sch):
        accumulate_parts(sch, 2)
    elif family == "dense" and tiling.channels_first and _is_far(sch, acc, tiling):
        *_, step, _y, _x, _o, _v = sch.get_loops(acc)
        sch.annotate(step, MARK, rows)
    sch.vectorize(v)
    sch.unroll(x_in)
    sch.unroll(o_in)


def _is_far(sch: s_tir.Schedule, acc: s_tir.schedule.SBlockRV, tiling: Tiling) -> bool:
    """Whether the weights of a scheduled sum are worth prefetching."""
    *reduce, _y, _x, _o, _v = extents(sch, list(sch.get_loops(acc))[2:])
    (weight,) = (read.source for read in sch.get(acc).reads if len(read.region) == 6)
    blocks, *_ = shape = [int(n) for n in weight.ty.shape]
    is_large = blocks > tiling.channels and 4 * prod(shape) >= NEAR
    return is_large and prod(reduce) * tiling.pixels * tiling.channels > WRITTEN_OUT


def _pad(sch: s_tir.Schedule, family: Family) -> None:
    """Padding is inlined where each input is read a few times only, else written out once."""
    pad = packed_tile.pad_block(sch)
    if pad is None:
        return
    if family == "pool":
        sch.compute_inline(pad)
        return
    loops = sch.get_loops(pad)
    if family == "dense":
        sch.vectorize(loops[-1])
    sch.parallel(sch.fuse(*loops[:2]))
