"""Schedules of packed kernels on the CPU lane.

Tiles follow from the target alone: the accumulators of a tile (pixels by channel vectors) stay in
registers while the reduction runs.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from syncnas_tvm.schedule import packed_tile
from syncnas_tvm.schedule.blocks import largest_divisor, sum_rows
from syncnas_tvm.schedule.half_sums import accumulate_parts, has_parts
from syncnas_tvm.schedule.packed import Family
from syncnas_tvm.schedule.winograd import OUT, TILE

# Bytes of transformed inputs that are kept: half of a second-level cache.
WORKING_SET = 512 << 10


def schedule(
    function: tirx.PrimFunc, family: Family, accumulators: int, threads: int
) -> tirx.PrimFunc:
    """``function`` with tiles, vectors and parallel loops."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    if family == "elementwise":
        _elementwise(sch)
    elif family == "reduce":
        _reduce(sch)
    elif family == "matmul":
        _matmul(sch)
    elif family == "winograd":
        _winograd(sch, accumulators, threads)
    else:
        _tiled(sch, family, accumulators)
    return sch.mod["main"]


def _elementwise(sch: s_tir.Schedule) -> None:
    *outer, vector = sch.get_loops(sch.get_sblock("out"))
    sch.vectorize(vector)
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


def _matmul(sch: s_tir.Schedule) -> None:
    """Each input is multiplied with a row of ``columns`` vectors, which lie one behind the other."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    total = sch.cache_write(acc, 0, "local")
    row, group, _j, _v = sch.get_loops(total)
    sch.reorder(group, row)
    sch.parallel(group)
    sch.compute_at(acc, row, preserve_unit_loops=True)
    packed_tile.add_up(sch, acc, outside=2)
    *_, column, lane = sch.get_loops(total)
    sch.unroll(column)
    sch.vectorize(lane)
    row, n = sch.get_loops(out)
    _outer, lane = sch.split(n, [None, largest_divisor(int(sch.get(n).extent), 16)])
    sch.vectorize(lane)


def _winograd(sch: s_tir.Schedule, accumulators: int, threads: int) -> None:
    """Rows of tiles in groups: what is transformed stays in the cache while it is multiplied."""
    data, acc, out = (sch.get_sblock(name) for name in ("data", "acc", "out"))
    _pad(sch, "dense")
    total = sch.cache_write(acc, 0, "local")
    o, y, x, v = sch.get_loops(out)
    *_, block_count, rows, columns, vector = (int(sch.get(n).extent) for n in sch.get_loops(total))
    into = int(sch.get(sch.get_loops(data)[2]).extent)
    row_floats = TILE * TILE * into * columns * vector
    at_most = min(WORKING_SET // (4 * row_floats), rows // threads)
    group = largest_divisor(rows, max(1, at_most))
    pixels, channels = packed_tile.tile_of(columns, block_count, accumulators)
    y_out, y_in, y_two = sch.split(y, [None, group, OUT])
    x_out, x_two = sch.split(x, [None, OUT])
    o_out, o_in = sch.split(o, [None, channels])
    sch.reorder(y_out, o_out, o_in, y_in, x_out, y_two, x_two, v)
    sch.parallel(y_out)
    # The sums of a group of output channels, then their outputs.
    sch.compute_at(total, o_out, preserve_unit_loops=True)
    xi, nu, to, ty, tx, tv = list(sch.get_loops(total))[2:]
    tx_out, tx_in = sch.split(tx, [None, pixels])
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


def _tiled(sch: s_tir.Schedule, family: Family, accumulators: int) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    block_count, width = (int(sch.get(loop).extent) for loop in (o, x))
    dense = family in ("dense", "stem")
    pixels, channels = packed_tile.tile_of(width, block_count if dense else 1, accumulators)
    if not dense:
        pixels = largest_divisor(width, 7) if width > 7 and width % 7 == 0 else pixels
    o_out, o_in = sch.split(o, [None, channels])
    x_out, x_in = sch.split(x, [None, pixels])
    # Dense: pixels outside of channels, so that a pixel's inputs stay in the cache while the
    # weights stream by. Depthwise: a channel's rows one after the other.
    order = (y, x_out, o_out) if dense else (o_out, y, x_out)
    sch.reorder(*order, o_in, x_in, v)
    sch.parallel(order[0])
    _pad(sch, family)
    # All of a 3 x 3 window is unrolled; of larger ones a row, or the code outgrows its cache.
    window = list(sch.get_loops(acc))[4:]
    small = int(sch.get(window[0]).extent) <= 3
    unrolled = 0 if dense else len(window) if small else 1
    packed_tile.accumulate(sch, acc, order[-1], len(order), unrolled)
    if family == "dense" and has_parts(sch):
        accumulate_parts(sch, len(order))
    sch.vectorize(v)
    sch.unroll(x_in)
    sch.unroll(o_in)


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
