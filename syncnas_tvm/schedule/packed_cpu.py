"""Schedules of packed kernels on the CPU lane.

Tiles follow from the target alone: ``vector`` floats in a register, ``registers`` of them. The
accumulators of a tile (pixels by channel vectors) stay in registers while the reduction runs.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from syncnas_tvm.schedule.blocks import largest_divisor, sum_rows
from syncnas_tvm.schedule.packed import Family

MAX_PIXELS = 14


def tile_of(width: int, channel_blocks: int, registers: int) -> tuple[int, int]:
    """Pixels and channel vectors of a tile: as many accumulators as leave registers for operands."""
    budget = registers * 3 // 4
    pixels = largest_divisor(width, min(MAX_PIXELS, budget))
    if pixels == 1 and width <= budget:
        pixels = width
    channels = next((c for c in (3, 2) if channel_blocks % c == 0 and c * pixels <= budget), 1)
    return pixels, channels


def schedule(function: tirx.PrimFunc, family: Family, registers: int) -> tirx.PrimFunc:
    """``function`` with tiles, vectors and parallel loops."""
    sch = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    if family == "elementwise":
        _elementwise(sch)
    elif family == "reduce":
        _reduce(sch)
    else:
        _tiled(sch, family, registers)
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


def _tiled(sch: s_tir.Schedule, family: Family, registers: int) -> None:
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    o, y, x, v = sch.get_loops(out)
    block_count, width = (int(sch.get(loop).extent) for loop in (o, x))
    dense = family in ("dense", "stem")
    pixels, channels = tile_of(width, block_count if dense else 1, registers)
    if not dense:
        pixels = largest_divisor(width, 7) if width > 7 and width % 7 == 0 else pixels
    o_out, o_in = sch.split(o, [None, channels])
    x_out, x_in = sch.split(x, [None, pixels])
    # Dense: pixels outside of channels, so that a pixel's inputs stay in the cache while the
    # weights stream by. Depthwise: a channel's rows one after the other.
    order = (y, x_out, o_out) if dense else (o_out, y, x_out)
    sch.reorder(*order, o_in, x_in, v)
    sch.parallel(order[0])
    _pad(sch, family, order)
    sch.compute_at(acc, order[-1], preserve_unit_loops=True)
    loops = list(sch.get_loops(acc))[len(order) :]
    tile, reduce = loops[:4], loops[4:]
    o_t, y_t, x_t, v_t = tile
    sch.reorder(*reduce, y_t, x_t, o_t, v_t)
    sch.vectorize(v_t)
    # All of a 3 x 3 window is unrolled; of larger ones a row, or the code outgrows its cache.
    window = [] if dense else reduce if int(sch.get(reduce[0]).extent) <= 3 else reduce[-1:]
    for loop in (y_t, x_t, o_t, *window):
        sch.unroll(loop)
    init = sch.decompose_reduction(acc, reduce[0])
    *tile_init, v_init = list(sch.get_loops(init))[len(order) :]
    sch.vectorize(v_init)
    for loop in tile_init:
        sch.unroll(loop)
    sch.vectorize(v)
    sch.unroll(x_in)
    sch.unroll(o_in)
    sch.set_scope(acc, 0, "local")


def _pad(sch: s_tir.Schedule, family: Family, order: tuple[s_tir.schedule.LoopRV, ...]) -> None:
    """Padding is inlined where each input is read a few times only, else written out once."""
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    if "pad" not in names:
        return
    pad = sch.get_sblock("pad")
    if family in ("depthwise", "pool"):
        sch.compute_inline(pad)
        return
    loops = sch.get_loops(pad)
    if family == "dense":
        sch.vectorize(loops[-1])
    sch.parallel(sch.fuse(*loops[:2]))
