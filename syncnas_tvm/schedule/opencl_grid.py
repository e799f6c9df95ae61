"""Binding loops to OpenCL's work groups and work items."""

from __future__ import annotations

from tvm import s_tir

from syncnas_tvm.schedule.blocks import extents, largest_divisor

WORK_GROUP = 64


def bind_flat(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, limit: int) -> None:
    """Bind one loop to the grid, the last work group guarded where it does not divide."""
    items = min(limit, extents(sch, [loop])[0])
    group, item = sch.split(loop, [None, items])
    sch.bind(group, "blockIdx.x")
    sch.bind(item, "threadIdx.x")


def bind_grid(
    sch: s_tir.Schedule, loops: list[s_tir.schedule.LoopRV], limit: int
) -> s_tir.schedule.LoopRV:
    """Bind up to three loops to the grid, innermost to x; returns the innermost item loop.

    Loops are not fused and work groups divide them: fused or guarded loops make indices that
    decompose_reduction does not take for affine. ``limit`` is the most work items of a group.
    """
    while len(loops) > 3:
        loops = [sch.fuse(*loops[:2]), *loops[2:]]
    groups, items = [], []
    for loop, size in zip(loops, work_group(extents(sch, loops), limit), strict=True):
        group, item = sch.split(loop, [None, size])
        groups.append(group)
        items.append(item)
    sch.reorder(*groups, *items)
    for axis, group, item in zip("xyz", reversed(groups), reversed(items), strict=False):
        sch.bind(group, f"blockIdx.{axis}")
        sch.bind(item, f"threadIdx.{axis}")
    return items[-1]


def work_group(shape: list[int], limit: int) -> list[int]:
    """Work items of a group in each dimension of a grid: divisors, the innermost as large as may be."""
    sizes: list[int] = []
    for extent in reversed(shape):
        sizes.insert(0, largest_divisor(extent, limit))
        limit //= sizes[0]
    return sizes
