"""The tile that packed convolutions and poolings compute on both lanes: pixels by channel vectors."""

from __future__ import annotations

from tvm import s_tir

from syncnas_tvm.schedule.blocks import largest_divisor

MAX_PIXELS = 14


def tile_of(width: int, channel_blocks: int, accumulators: int) -> tuple[int, int]:
    """Pixels and channel vectors of a tile, ``accumulators`` vectors at most."""
    pixels = largest_divisor(width, min(MAX_PIXELS, accumulators))
    if pixels == 1 and width <= accumulators:
        pixels = width
    channels = next(
        (c for c in (3, 2) if channel_blocks % c == 0 and c * pixels <= accumulators), 1
    )
    return pixels, channels


def accumulate(
    sch: s_tir.Schedule,
    acc: s_tir.schedule.SBlockRV,
    at: s_tir.schedule.LoopRV,
    outside: int,
    unrolled: int,
) -> None:
    """Compute the reduction ``acc`` inside of loop ``at``, its tile in local accumulators.

    ``outside`` is the number of loops down to ``at``; the innermost ``unrolled`` loops of the
    reduction are unrolled with the tile.
    """
    sch.compute_at(acc, at, preserve_unit_loops=True)
    loops = list(sch.get_loops(acc))[outside:]
    o, y, x, vector = loops[:4]
    reduce = loops[4:]
    sch.reorder(*reduce, y, x, o, vector)
    sch.vectorize(vector)
    for loop in (y, x, o, *reduce[len(reduce) - unrolled :]):
        sch.unroll(loop)
    init = sch.decompose_reduction(acc, reduce[0])
    *tile, vector = list(sch.get_loops(init))[outside:]
    sch.vectorize(vector)
    for loop in tile:
        sch.unroll(loop)
    sch.set_scope(acc, 0, "local")


def add_up(sch: s_tir.Schedule, acc: s_tir.schedule.SBlockRV, outside: int) -> None:
    """One loop of ``acc``'s additions around its row of vectors, ``outside`` loops from the top."""
    *tile, vector, depth = list(sch.get_loops(acc))[outside:]
    sch.reorder(depth, *tile, vector)
    sch.vectorize(vector)
    for loop in tile:
        sch.unroll(loop)
    init = sch.decompose_reduction(acc, depth)
    *tile, vector = list(sch.get_loops(init))[outside:]
    sch.vectorize(vector)
    for loop in tile:
        sch.unroll(loop)


def pad_block(sch: s_tir.Schedule) -> s_tir.schedule.SBlockRV | None:
    """The block that pads the input, where the kernel has one."""
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    return sch.get_sblock("pad") if "pad" in names else None
