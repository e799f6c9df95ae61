"""The tilings of a packed kernel on the CPU lane, the rule's own choice first."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

from tvm import s_tir

from syncnas_tvm.schedule.blocks import extents, largest_divisor
from syncnas_tvm.schedule.packed_definition import Family
from syncnas_tvm.schedule.packed_tile import good_tiles, tile_of, token_tilings
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.winograd import TILE

# Bytes of transformed inputs that are kept: half of a second-level cache.
WORKING_SET = 512 << 10
ELEMENTWISE_PIXELS = (1, 2, 4, 7, 8)
# Multiply-adds that are written out one by one; more of them outgrow the cache for code.
MAX_UNROLLED = 512
# Up to about so many LLVM writes out a whole reduction on its own. It then keeps the inputs of all steps
# across the loop over channels, in more registers than there are.
UNROLLED_BY_LLVM = 150


def tilings(
    sch: s_tir.Schedule, family: Family, accumulators: int, threads: int
) -> tuple[Tiling, ...]:
    """What :func:`packed_cpu.apply` can do with the unscheduled function in ``sch``.

    ``accumulators`` vectors are a tile at most; ``threads`` share the parallel loop.
    """
    if family == "reduce":
        return (Tiling(),)
    if family == "elementwise":
        width = extents(sch, sch.get_loops(sch.get_sblock("out")))[-2]
        return tuple(Tiling(pixels=p) for p in ELEMENTWISE_PIXELS if width % p == 0)
    if family == "matmul":
        columns = extents(sch, sch.get_loops(sch.get_sblock("acc")))[2]
        return tuple(Tiling(channels=c) for c in range(columns, 0, -1) if columns % c == 0)
    if family == "tokens":
        rows, _, columns = extents(sch, sch.get_loops(sch.get_sblock("acc")))[:3]
        return tuple(token_tilings(rows, columns, accumulators))
    if family == "winograd":
        return _winograd(sch, accumulators, threads)
    if family in ("dense", "stem"):
        return _dense(sch, family, accumulators)
    return _window(sch, accumulators)


def _dense(sch: s_tir.Schedule, family: Family, accumulators: int) -> tuple[Tiling, ...]:
    block_count, _, width, _ = extents(sch, sch.get_loops(sch.get_sblock("out")))
    window = extents(sch, sch.get_loops(sch.get_sblock("acc")))[4:]
    least = UNROLLED_BY_LLVM // prod(window) + 1
    own = Tiling(*tile_of(width, block_count, accumulators, least), channels_first=1)
    found = {own: None}
    for (pixels, channels), first, unrolled in product(
        good_tiles(width, block_count, accumulators), (0, 1), range(3 if family == "stem" else 2)
    ):
        if unrolled and pixels * channels * prod(window[-unrolled:]) > MAX_UNROLLED:
            continue
        found[Tiling(pixels, channels, unrolled, channels_first=first)] = None
    return tuple(found)


def _window(sch: s_tir.Schedule, accumulators: int) -> tuple[Tiling, ...]:
    """Depthwise convolutions and poolings, whose channels have nothing in common."""
    width = extents(sch, sch.get_loops(sch.get_sblock("out")))[2]
    window = extents(sch, sch.get_loops(sch.get_sblock("acc")))[4:]
    pixels, _ = tile_of(width, 1, accumulators)
    if width > 7 and width % 7 == 0:
        pixels = 7
    # All of a 3 x 3 window is unrolled; of larger ones a row, or the code outgrows its cache.
    own = Tiling(pixels, unrolled=len(window) if window[0] <= 3 else 1, channels_first=1)
    found = {own: None}
    for (p, _), unrolled in product(good_tiles(width, 1, accumulators), range(len(window) + 1)):
        if unrolled and p * prod(window[-unrolled:]) > MAX_UNROLLED:
            continue
        found[Tiling(p, unrolled=unrolled, channels_first=1)] = None
    return tuple(found)


def _winograd(sch: s_tir.Schedule, accumulators: int, threads: int) -> tuple[Tiling, ...]:
    """Rows of tiles in groups whose transformed inputs stay in the cache."""
    *_, block_count, rows, columns, vector, into, _ = extents(
        sch, sch.get_loops(sch.get_sblock("acc"))
    )
    row_bytes = 4 * TILE * TILE * into * columns * vector

    def group(working_set: int) -> int:
        return largest_divisor(rows, max(1, min(working_set // row_bytes, rows // threads)))

    own = Tiling(*tile_of(columns, block_count, accumulators), rows=group(WORKING_SET))
    found = {own: None}
    groups = {group(WORKING_SET * times // 4) for times in (1, 2, 4, 8)}
    for (p, c), count in product(good_tiles(columns, block_count, accumulators), sorted(groups)):
        found[replace(own, pixels=p, channels=c, rows=count)] = None
    return tuple(found)
