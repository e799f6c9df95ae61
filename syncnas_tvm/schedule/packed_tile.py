"""The tile that packed convolutions and poolings compute on both lanes: pixels by channel vectors."""

from __future__ import annotations

from math import prod

from tvm import s_tir

from syncnas_tvm.schedule.tiling import Tiling

MAX_PIXELS = 14
MAX_CHANNELS = 3


def tile_of(width: int, channel_blocks: int, accumulators: int, least: int = 1) -> tuple[int, int]:
    """Pixels and channel vectors of a tile, ``accumulators`` vectors at most, ``least`` if possible.

    Of the tiles that divide the map, the one that loads least for its multiply-adds: a step of the
    reduction loads an input per pixel and a weight per channel vector, and multiplies all pairs.
    """
    fitting = fitting_tiles(width, channel_blocks, accumulators, MAX_CHANNELS)
    large = [tile for tile in fitting if prod(tile) >= least]
    return max(large or fitting, key=lambda tile: (_per_load(tile), tile[0]))


def good_tiles(width: int, channel_blocks: int, accumulators: int) -> list[tuple[int, int]]:
    """Tiles that load at most twice as much for a multiply-add as the best."""
    fitting = fitting_tiles(width, channel_blocks, accumulators, MAX_CHANNELS + 1)
    least = max(map(_per_load, fitting)) / 2
    return [tile for tile in fitting if _per_load(tile) >= least]


def fitting_tiles(
    width: int, channel_blocks: int, accumulators: int, most_channels: int
) -> list[tuple[int, int]]:
    """All tiles that divide the map and have their sums in registers."""
    pixels = {p for p in range(1, min(MAX_PIXELS, accumulators) + 1) if width % p == 0}
    if len(pixels) == 1 and width <= accumulators:
        pixels.add(width)  # a prime width is one tile
    return [
        (p, c)
        for p in sorted(pixels)
        for c in range(1, most_channels + 1)
        if channel_blocks % c == 0 and p * c <= accumulators
    ]


def channel_cut(width: int, channel_blocks: int, accumulators: int) -> int:
    """How many of the channel vectors, the last ones, better have tiles of their own; mostly 0.

    7 vectors have tiles of 1, which load more than they multiply; 3 and 4 of them have larger ones.
    """

    def cost(count: int) -> float:
        """Steps of the tiles: a load and a multiply-add run side by side."""
        return count * max(1.0, 1 / _per_load(tile_of(width, count, accumulators))) if count else 0

    cuts = range(min(MAX_CHANNELS + 2, channel_blocks))
    return min(cuts, key=lambda last: (round(cost(channel_blocks - last) + cost(last), 6), last))


def _per_load(tile: tuple[int, int]) -> float:
    return tile[0] * tile[1] / sum(tile)


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
    set_to_zero(sch, acc, reduce[0], outside)
    sch.set_scope(acc, 0, "local")


def add_up(sch: s_tir.Schedule, acc: s_tir.schedule.SBlockRV, outside: int) -> None:
    """One loop of ``acc``'s additions around its row of vectors, ``outside`` loops from the top."""
    *tile, vector, depth = list(sch.get_loops(acc))[outside:]
    sch.reorder(depth, *tile, vector)
    sch.vectorize(vector)
    for loop in tile:
        sch.unroll(loop)
    set_to_zero(sch, acc, depth, outside)


def set_to_zero(
    sch: s_tir.Schedule,
    acc: s_tir.schedule.SBlockRV,
    before: s_tir.schedule.LoopRV,
    outside: int,
) -> None:
    """Initialise the tile of ``acc`` in front of loop ``before``, ``outside`` loops from the top."""
    init = sch.decompose_reduction(acc, before)
    *tile, vector = list(sch.get_loops(init))[outside:]
    sch.vectorize(vector)
    for loop in tile:
        sch.unroll(loop)


def token_tilings(rows: int, columns: int, accumulators: int) -> list[Tiling]:
    """Tiles of a dense layer with several rows, all ``columns`` vectors of a group; most rows first."""
    most = max(1, min(rows, accumulators // columns))
    return [Tiling(pixels=p, channels=columns) for p in range(most, 0, -1) if rows % p == 0]


def token_tile(sch: s_tir.Schedule, tiling: Tiling) -> list[s_tir.schedule.LoopRV]:
    """Unroll the tiles of a dense layer's output; returns the loops over tiles, channels first."""
    lanes = int(sch.get(sch.get_loops(sch.get_sblock("acc"))[3]).extent)
    *_, row, n = sch.get_loops(sch.get_sblock("out"))
    row, row_in = sch.split(row, [None, tiling.pixels])
    group, column, lane = sch.split(n, [None, tiling.channels, lanes])
    sch.reorder(group, row, row_in, column, lane)
    sch.unroll(row_in)
    sch.unroll(column)
    sch.vectorize(lane)
    return [group, row]


def pad_block(sch: s_tir.Schedule) -> s_tir.schedule.SBlockRV | None:
    """The block that pads the input, where the kernel has one."""
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    return sch.get_sblock("pad") if "pad" in names else None
