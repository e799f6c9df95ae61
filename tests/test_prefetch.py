"""Sums in registers, and the weights that are multiplied next on their way into the cache."""

from __future__ import annotations

import re

import graph_nets
import pytest
import tvm
from assembly import assembly
from graph_nets import graph_of
from tvm import tirx

from syncnas_tvm.graph.fusion import Group, groups_of
from syncnas_tvm.schedule import packed_tile
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.prefetch import InsertPrefetches
from syncnas_tvm.targets import load_target

RK3399 = load_target("rk3399")


def pointwise(channels: int, out: int, size: int) -> Group:
    graph = graph_of(lambda n, x: n.conv(x, out), channels=channels, size=size)
    (group,) = groups_of(graph.function(graph.names[0]), "cpu")
    return group


def kernel(group: Group) -> tirx.PrimFunc:
    schedules = PackedSchedules.of(RK3399)
    return schedules.kernel(define(group, schedules.machine("cpu")), "cpu")


def test_prefetches_the_next_group() -> None:
    mod = tvm.IRModule({"main": kernel(pointwise(160, 96, 7))})
    text = InsertPrefetches()(mod).script()
    (call,) = re.findall(r"llvm\.prefetch.*|call_llvm_intrin\(.*", text)
    # 24 vectors of 4 channels in tiles of 2: twelve groups of 7 rows, a tile a row.
    assert re.search(r"T\.min\(\w+ // 7 \+ 1, 11\) \* 2 \+ T\.min\(\w+ % 7 \+ \w+, 1\)", call)


@pytest.mark.parametrize(
    ("channels", "out", "size", "why"),
    [(16, 96, 7, "small"), (1280, 8, 7, "one group"), (8, 1600, 7, "short")],
)
def test_leaves_kernels_alone(channels: int, out: int, size: int, why: str) -> None:
    mod = tvm.IRModule({"main": kernel(pointwise(channels, out, size))})
    assert InsertPrefetches()(mod)["main"].same_as(mod["main"]), why


def test_compiled() -> None:
    """The prefetch is in the loop, and nothing is asked of the runtime's memory."""
    text = assembly(pointwise(160, 96, 7), RK3399)
    assert "\tprfm\t" in text
    assert "AllocWorkspace" not in text


@pytest.mark.parametrize("channels", [160, 24])
def test_computes_the_same(channels: int) -> None:
    """Cut channels too: 80 and 112 outputs are 5 and 7 vectors of 16."""
    for out in (80, 112):
        body = lambda n, x: n.relu6(n.conv(x, out))  # noqa: E731, B023
        graph = graph_of(body, channels=channels, size=14)
        inputs = graph_nets.random_inputs(graph.mod)
        expected = graph_nets.evaluate(graph.mod, inputs)
        mod = graph_nets.apply_plan(graph, graph_nets.Plan(graph_nets.placed(graph, "cpu")))
        found = graph_nets.run_compiled(mod, load_target("host"), inputs)
        for ours, reference in zip(found, expected, strict=True):
            assert graph_nets.relative_error(ours, reference) <= 1e-5


@pytest.mark.parametrize(
    ("width", "blocks", "accumulators", "last"),
    [(7, 6, 24, 0), (14, 7, 24, 3), (14, 5, 24, 2), (7, 1, 24, 0), (7, 3, 14, 1), (13, 6, 24, 0)],
)
def test_channels_are_cut_where_no_tile_divides_them(
    width: int, blocks: int, accumulators: int, last: int
) -> None:
    assert packed_tile.channel_cut(width, blocks, accumulators) == last
