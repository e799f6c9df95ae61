"""The tilings of a packed kernel on the GPU lane, the rule's own choice first."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from tvm import s_tir

from syncnas_tvm.schedule.blocks import extents
from syncnas_tvm.schedule.opencl_grid import WORK_GROUP, work_group
from syncnas_tvm.schedule.packed_definition import Family
from syncnas_tvm.schedule.packed_tile import good_tiles, tile_of, token_tilings
from syncnas_tvm.schedule.tiling import Tiling

WORK_GROUPS = (WORK_GROUP, 16, 32, 128, 256)
# Rows of a window that are unrolled too: a driver compiles 9 x 9 of them for seconds.
MAX_UNROLLED_ROWS = 3


def tilings(
    sch: s_tir.Schedule, family: Family, accumulators: int, max_items: int
) -> tuple[Tiling, ...]:
    """What :func:`packed_gpu.apply` can do with the unscheduled function in ``sch``.

    A work item keeps ``accumulators`` vectors at most; a work group has at most ``max_items`` items.
    """
    own = min(WORK_GROUP, max_items)
    limits = [own, *(limit for limit in WORK_GROUPS if limit <= max_items and limit != own)]
    if family == "elementwise":
        return tuple(Tiling(items=items) for items in limits)
    if family == "reduce":
        shape = extents(sch, sch.get_loops(sch.get_sblock("out")))[:3]
        return tuple(Tiling(items=items) for items in _distinct(shape, limits))
    if family == "matmul":
        return _matmul(sch, limits)
    if family == "tokens":
        return _tokens(sch, accumulators, limits)
    return _tiled(sch, family, accumulators, limits)


def _matmul(sch: s_tir.Schedule, limits: list[int]) -> tuple[Tiling, ...]:
    rows, groups, columns = extents(sch, sch.get_loops(sch.get_sblock("acc")))[:3]
    found = []
    for channels in (c for c in range(columns, 0, -1) if columns % c == 0):
        shape = [rows, groups, columns // channels]
        found += [Tiling(channels=channels, items=n) for n in _distinct(shape, limits)]
    return tuple(found)


def _tokens(sch: s_tir.Schedule, accumulators: int, limits: list[int]) -> tuple[Tiling, ...]:
    rows, groups, columns = extents(sch, sch.get_loops(sch.get_sblock("acc")))[:3]
    return tuple(
        replace(tiling, items=items)
        for tiling in token_tilings(rows, columns, accumulators)
        for items in _distinct([groups, rows // tiling.pixels], limits)
    )


def _tiled(
    sch: s_tir.Schedule, family: Family, accumulators: int, limits: list[int]
) -> tuple[Tiling, ...]:
    block_count, height, width, _ = extents(sch, sch.get_loops(sch.get_sblock("out")))
    window = extents(sch, sch.get_loops(sch.get_sblock("acc")))[4:]
    dense = family in ("dense", "stem")
    blocks = block_count if dense else 1
    # A window's columns are unrolled, its rows only where there are few; a stem's few rows always, since
    # the columns outside of the image are then known. Dense convolutions have many input channels.
    few = window[-2] <= MAX_UNROLLED_ROWS
    unrolled = (0, 1) if family == "dense" else (0, 1, 2) if few else (0, 1)
    own_unrolled = 0 if family == "dense" else 2 if family == "stem" and few else 1
    own = Tiling(*tile_of(width, blocks, accumulators), own_unrolled, items=limits[0])
    found = {own: None}
    for (pixels, channels), inner in product(good_tiles(width, blocks, accumulators), unrolled):
        shape = [block_count // channels, height, width // pixels]
        for items in _distinct(shape, limits):
            found[Tiling(pixels, channels, inner, items=items)] = None
    return tuple(found)


def _distinct(shape: list[int], limits: list[int]) -> list[int]:
    """The limits that give different work groups, those in front where several give the same."""
    groups: dict[tuple[int, ...], int] = {}
    for limit in limits:
        groups.setdefault(tuple(work_group(shape, limit)), limit)
    return list(groups.values())
