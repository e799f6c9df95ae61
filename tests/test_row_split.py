"""RowSplit: which runs it takes, the rows of each lane, what it writes, what it predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from graph_nets import Net, evaluate, graph_of, placed, random_inputs, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.calls import calls_of
from syncnas_tvm.graph.dataflow import Dataflow, shape_of
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.region_work import work_of
from syncnas_tvm.graph.rows import ROWS, RowBands, RowStates, Window
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.row_split import RowSplit
from syncnas_tvm.passes.rule import rule
from syncnas_tvm.plan import Decision, Plan

op = relax.op
Body = Callable[[Net, relax.Var], relax.Expr]


def blocks(net: Net, x: relax.Var) -> relax.Var:
    """Two inverted residual blocks, one with a residual, and a stride in between."""
    x = net.mbconv(x, 24, 8, 3, 1)
    x = net.mbconv(x, 24, 16, 5, 2, residual=False)
    return net.mbconv(x, 32, 16, 3, 1)


def decision(graph: RegionGraph, cut: int, count: int | None = None) -> Decision:
    return Decision.of(graph.names[:count], "RowSplit", cpu_rows=cut)


def rewritten(graph: RegionGraph, chosen: Decision) -> tuple[tvm.IRModule, str]:
    region = graph.run(chosen.regions)
    mod = graph.module_of(chosen.regions)
    return RowSplit().rewrite(mod, graph, region, chosen), region.name


@given(
    size=st.integers(1, 9),
    stride=st.integers(1, 3),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    height=st.integers(1, 30),
    data=st.data(),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_window_reads_what_a_convolution_does(
    size: int, stride: int, before: int, after: int, height: int, data: st.DataObject
) -> None:
    rows = (height + before + after - size) // stride + 1
    if rows < 1:
        return
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    inside, (above, below) = Window(size, stride, before).reads((begin, end), height)
    taps = [r * stride - before + k for r in range(begin, end) for k in range(size)]
    first, last = min(taps), max(taps) + 1
    assert inside == (max(0, first), min(height, last))
    assert (inside[0] - above, inside[1] + below) == (first, last)


def test_bands_grow_towards_the_input() -> None:
    """Three rows of 3 x 3 and 5 x 5 windows: the halo of each is added, strides multiply."""
    graph = graph_of(blocks, channels=8, size=16)
    region = graph.run(graph.names)
    flow = Dataflow(graph.grouped([graph.names])[region.name])
    bands = RowBands(RowStates(flow), {"cpu": (0, 3), "gpu": (3, 8)})
    (x,) = flow.params
    # Backwards: 0..3 -> 0..4 (3 x 3) -> 0..9 (5 x 5, stride 2) -> 0..10 (3 x 3)
    assert bands.band(x, "cpu") == (0, 10)
    assert bands.band(x, "gpu") == (1, 16)


def test_what_is_written() -> None:
    """One function a lane, on its rows alone, and a concat; padding only at the map's own border."""
    graph = graph_of(blocks, channels=8, size=16)
    mod, name = rewritten(graph, decision(graph, 3))
    calls = calls_of(mod, mod[name]).calls
    assert [c.lane or c.join for c in calls] == ["gpu", "cpu", "concat"]
    gpu, cpu, join = calls
    assert [shape_of(r)[ROWS] for c in calls for r in c.results if r is not None] == [5, 3, 8]
    assert shape_of(join.results[0]) == graph.run(graph.names).out_shapes[0]

    def padding(call: object) -> list[list[int]]:
        flow = Dataflow(call.function)  # type: ignore[attr-defined]
        convs = [n for n in flow.nodes if n.op == "nn.conv2d" and int(n.attrs.groups) > 1]
        return [[int(p) for p in n.attrs.padding][::2] for n in convs]

    assert padding(cpu) == [[1, 0], [2, 0], [1, 0]]
    assert padding(gpu) == [[0, 1], [0, 1], [0, 1]]


def test_slices_of_rows_are_no_kernels() -> None:
    graph = graph_of(blocks, channels=8, size=16)
    mod, name = rewritten(graph, decision(graph, 3))
    for call in calls_of(mod, mod[name]).calls:
        ops = [g.kernel.op for g in groups_of(call.function, "cpu")]
        assert "strided_slice" not in ops
        slices = [n for n in Dataflow(call.function).nodes if n.op == "strided_slice"]
        assert bool(slices) == (call.lane is not None)


BODIES: dict[str, Body] = {
    "blocks": blocks,
    "excite": lambda n, x: n.mbconv(n.mbconv(x, 24, 8, se="after"), 24, 12, 3, 2, se="after"),
    "resnet": lambda n, x: n.basic(n.basic(n.basic(x, 8), 16, 2), 16),
    "mix": lambda n, x: n.mix(n.mix(x, 16, 8), 16, 8, (3, 7)),
    "rexnet": lambda n, x: n.rexnet(x, 24, 12),
    "pool": lambda n, x: n.conv(
        n.emit(op.nn.max_pool2d(n.conv(x, 8, 3, 2), (3, 3), (2, 2), padding=(1, 1))), 8, 3
    ),
}


@pytest.mark.parametrize("size", [16, 17, 23])
@pytest.mark.parametrize("name", BODIES)
def test_every_cut_is_exact_and_predicted(name: str, size: int) -> None:
    """The outputs stay the same, and the work that is predicted is that of what is written."""
    graph = graph_of(BODIES[name], channels=8, size=size)
    inputs = random_inputs(graph.mod)
    (expected,) = evaluate(apply_plan(graph, Plan(placed(graph, "cpu"))), inputs)
    variants = RowSplit().variants(graph, graph.regions[0])
    assert variants
    assert max(len(v.regions) for v in variants) == len(graph.names)
    for chosen in variants[:: max(1, len(variants) // 6)]:
        rest = placed(graph, "cpu")[len(chosen.regions) :]
        (found,) = evaluate(apply_plan(graph, Plan((chosen, *rest))), inputs)
        assert relative_error(found, expected) <= 1e-5, chosen
        region = graph.run(chosen.regions)
        predicted = RowSplit().work(graph, region, chosen)
        assert predicted == work_of(*rewritten(graph, chosen)), chosen


def test_squeeze_and_excite_needs_one_small_sync() -> None:
    """Each lane averages its own rows; the means meet, weighted by the rows, then both go on."""
    graph = graph_of(lambda n, x: n.mbconv(x, 24, 8, se="after"), channels=8, size=16)
    work = RowSplit().work(graph, graph.regions[0], decision(graph, 6))
    inner, end = (phase.output for phase in work.phases)
    assert (inner.kind, inner.cpu_bytes, inner.gpu_bytes) == ("sum", 24 * 4, 24 * 4)
    assert end.kind == "concat"
    means = {lane: [k for k in work.kernels(lane) if k.op == "mean"] for lane in ("cpu", "gpu")}
    rows = [means[lane][0].shapes[0][ROWS] for lane in ("cpu", "gpu")]
    assert sum(rows) == 16  # the halo is averaged by one lane only


def test_not_across_the_last_pooling() -> None:
    graph = graph_of(lambda n, x: n.head(n.mbconv(x, 24, 8), 32, 10), channels=8, size=16)
    split = RowSplit()
    assert [split.applies(graph, region) for region in graph.regions] == [True, False]
    assert {v.regions for v in split.variants(graph, graph.regions[0])} == {graph.names[:1]}


@pytest.mark.parametrize("cut", [0, 8, -1, 2.5, True, None])
def test_a_wrong_cut_says_what_is_right(cut: object) -> None:
    graph = graph_of(blocks, channels=8, size=16)
    chosen = Decision.of(graph.names, "RowSplit", cpu_rows=cut)
    with pytest.raises(PlanError, match=r"cpu_rows is .* from 1 to 7"):
        apply_plan(graph, Plan((chosen,)))


def test_runs_are_of_neighbours() -> None:
    graph = graph_of(blocks, channels=8, size=16)
    with pytest.raises(PlanError, match="do not follow one another"):
        graph.run((graph.names[0], graph.names[2]))
    assert graph.run(graph.names[:1]) is graph.regions[0]
    joined = graph.run(graph.names)
    assert joined.macs == sum(region.macs for region in graph.regions)
    assert rule("RowSplit").applies(graph, graph.regions[0])


def test_what_is_skipped_by_a_stride_is_computed_by_nobody() -> None:
    """A 1 x 1 convolution of stride 2 reads every second row."""
    graph = graph_of(lambda n, x: n.conv(n.conv(x, 8, 3), 8, 1, 2), channels=8, size=17)
    inputs = random_inputs(graph.mod)
    (expected,) = evaluate(apply_plan(graph, Plan(placed(graph, "cpu"))), inputs)
    for cut in range(1, 9):
        (found,) = evaluate(apply_plan(graph, Plan((decision(graph, cut),))), inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
