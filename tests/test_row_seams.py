"""Seams: bands of rows are exchanged in place, and a lane gets no row that it does not read."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from graph_nets import evaluate, graph_of, placed, random_inputs, relative_error, run_compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from syncnas_tvm.graph.calls import calls_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.region_work import work_of
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.insert_transfers import EXCHANGE, ROWS_TRANSFER, InsertTransfers
from syncnas_tvm.passes.row_seams import ROOM_ATTR, find_seams
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import load_target
from syncnas_tvm.work import Kernel, Phase, Seam, Sync, Work


def three_blocks(n, x):
    """Windows of 3, 5 and 3 rows; the last one strides."""
    x = n.mbconv(x, 24, 8, 3)
    x = n.mbconv(x, 24, 8, 5)
    return n.mbconv(x, 24, 16, 3, 2, residual=False)


def rows(region: str, cut: int) -> Decision:
    return Decision.of(region, "RowSplit", cpu_rows=cut)


def planned(*decisions: Decision, size: int = 16) -> tuple[RegionGraph, tvm.IRModule]:
    graph = graph_of(three_blocks, channels=8, size=size)
    return graph, apply_plan(graph, Plan(decisions))


def packed_calls(mod: tvm.IRModule, name: str) -> list[list[int]]:
    """The numbers that ``main`` calls the packed function ``name`` with, call by call."""
    return [
        [int(a.value) for a in binding.value.args[1:] if not isinstance(a, relax.Var)]
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
        and getattr(binding.value.args[0], "global_symbol", "") == name
    ]


def test_what_is_written() -> None:
    """No join is left; each lane makes its band in a whole map and receives the halo alone."""

    @I.ir_module
    class Before:
        @R.function(private=True)
        def r0_cpu(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 2, 4), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                top = R.strided_slice(x, [2], [0], [2])
                y = R.exp(top)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_gpu(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 4, 4), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                low = R.strided_slice(x, [2], [2], [6])
                y = R.exp(low)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_join(
            a: R.Tensor((1, 8, 2, 4), "float32"), b: R.Tensor((1, 8, 4, 4), "float32")
        ) -> R.Tensor((1, 8, 6, 4), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.join": "concat", "syncnas.phase": 0})
            with R.dataflow():
                y = R.concat((a, b), axis=2)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r1_cpu(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 3, 4), "float32"):
            R.func_attr({"syncnas.region": "r1", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                top = R.strided_slice(x, [2], [0], [3])
                y = R.exp(top)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 3, 4), "float32"):
            cls = Before
            with R.dataflow():
                a = cls.r0_cpu(x)
                b = cls.r0_gpu(x)
                y = cls.r0_join(a, b)
                z = cls.r1_cpu(y)
                gv = z
                R.output(gv)
            return gv

    @I.ir_module
    class Expected:
        @R.function(private=True)
        def r0_cpu(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 6, 4), "float32"):
            R.func_attr(
                {
                    "syncnas.region": "r0",
                    "syncnas.lane": "cpu",
                    "syncnas.phase": 0,
                    "syncnas.room": [0],
                }
            )
            with R.dataflow():
                top = R.strided_slice(x, [2], [0], [2])
                y = R.exp(top)
                room = R.nn.pad(y, (0, 0, 0, 0, 0, 4, 0, 0))
                gv = room
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_gpu(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 4, 4), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                low = R.strided_slice(x, [2], [2], [6])
                y = R.exp(low)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r1_cpu(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 3, 4), "float32"):
            R.func_attr({"syncnas.region": "r1", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                top = R.strided_slice(x, [2], [0], [3])
                y = R.exp(top)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((1, 8, 6, 4), "float32")) -> R.Tensor((1, 8, 3, 4), "float32"):
            R.func_attr({"num_input": 1})
            cls = Expected
            with R.dataflow():
                moved = R.call_pure_packed(
                    "vm.builtin.rows_to_device", x, 4, 0, 2, 2, 4,
                    ty_args=(R.Tensor((1, 8, 6, 4), "float32"),),
                )  # fmt: skip
                b = cls.r0_gpu(moved)
                a = cls.r0_cpu(x)
                y = R.call_pure_packed(
                    "vm.builtin.exchange_rows", a, b, 2, 2, 0, 1,
                    ty_args=(R.Tensor((1, 8, 6, 4), "float32"),),
                )  # fmt: skip
                z = cls.r1_cpu(y)
                gv = z
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(InsertTransfers()(Before), Expected)


def test_lanes_exchange_the_halo() -> None:
    """A 5 x 5 window behind the cut at row 6 of 16: two rows either way."""
    _, mod = planned(rows("r0", 6), rows("r1", 6), rows("r2", 3))
    moved = InsertTransfers()(mod)
    # axis, first row, first row in the other lane's whole map, rows
    assert packed_calls(moved, EXCHANGE) == [
        *([ROWS, 6, 6, 2], [ROWS, 4, 4, 2]),  # to the CPU, to the GPU
        # The third block's 3 x 3 window with stride 2: output row 2 reads up to row 5, row 3 from 5 on.
        [ROWS, 5, 5, 1],
        [ROWS, 3, 0, 5],  # the model's output: all of the GPU's band, which it alone has
    ]
    assert not [gv for gv in moved.get_global_vars() if "join" in gv.name_hint]


def test_a_cut_that_moves_takes_rows_along() -> None:
    _, mod = planned(rows("r0", 4), rows("r1", 10), rows("r2", 3))
    first = packed_calls(InsertTransfers()(mod), EXCHANGE)[0]
    assert first == [ROWS, 4, 4, 8]  # rows 4 to 9, and a halo of two; the GPU has what it needs


def test_the_other_lane_gets_the_rows_that_it_reads() -> None:
    """From a whole value, too: the model's input, and what one lane has made."""
    _, mod = planned(Decision.of("r0", "Place", lane="cpu"), rows("r1", 6), rows("r2", 3))
    moved = packed_calls(InsertTransfers()(mod), ROWS_TRANSFER)
    assert moved == [[4, 0, ROWS, 4, 12]]
    _, mod = planned(rows("r0", 6), Decision.of("r1", "Place", lane="gpu"), rows("r2", 3))
    moved = packed_calls(InsertTransfers()(mod), ROWS_TRANSFER)
    assert moved == [[4, 0, ROWS, 5, 11], [1, 0, ROWS, 0, 6]]


def test_lanes_of_different_types_join_bands() -> None:
    """What is converted on the way is no part of the tensor that it goes into."""
    graph, mod = planned(rows("r0", 6), rows("r1", 6), rows("r2", 3))
    moved = InsertTransfers(converting=True)(mod)
    assert packed_calls(moved, EXCHANGE) == []
    region = graph.run(("r0",))
    work = work_of(apply_plan_module(graph, rows("r0", 6)), region.name)
    assert work.phases[-1].output.seam
    for types, seams in (
        (LaneTypes("float32", "float16"), 0),
        (LaneTypes("float16", "float16"), 1),
    ):
        assert sum(p.output.seam is not None for p in types.work(work).phases) == seams


def apply_plan_module(graph: RegionGraph, decision: Decision) -> tvm.IRModule:
    from syncnas_tvm.passes.rule import rule

    run = graph.run(decision.regions)
    return rule(decision.rule).rewrite(graph.module_of(decision.regions), graph, run, decision)


def test_a_band_that_others_read_is_joined() -> None:
    """A lane function that reads a band itself would see rows of the other lane in it."""
    _, mod = planned(rows("r0", 6), rows("r1", 6), rows("r2", 3))
    main = calls_of(mod, mod["main"])
    assert len(find_seams(main)) == 3
    doubled = type(main)(main.params, main.calls, (*main.outputs, main.calls[0].results[0]))
    assert len(find_seams(doubled)) == 2


def test_room_is_left_by_the_kernel() -> None:
    """The kernel writes its band into the larger tensor: nothing pads, and nothing is copied."""
    from syncnas_tvm.lowering import lower

    _, mod = planned(rows("r0", 6), rows("r1", 6), rows("r2", 3))
    lowered = lower(mod, load_target("host"))
    names = [gv.name_hint for gv in lowered.get_global_vars()]
    assert not [name for name in names if "pad" in name or "concat" in name]
    assert all(ROOM_ATTR not in (f.attrs or {}) for _, f in lowered.functions_items())


@given(cuts=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6)))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_every_cut_is_exact(cuts: tuple[int, int, int]) -> None:
    graph = graph_of(three_blocks, channels=8, size=13)
    inputs = random_inputs(graph.mod)
    expected = evaluate(apply_plan(graph, Plan(placed(graph, "cpu"))), inputs)
    plan = Plan(tuple(rows(name, cut) for name, cut in zip(graph.names, cuts, strict=True)))
    found = run_compiled(apply_plan(graph, plan), load_target("host"), inputs)
    assert relative_error(found[0], expected[0]) < 1e-5


def band(lane: str, us: int) -> Kernel:
    return Kernel("add", ((1,), (us,)), "float32", lane)  # type: ignore[arg-type]


def test_bytes_of_a_seam() -> None:
    seam = Seam(cut=6, height=16, row_bytes=100)
    assert (seam.bytes_to("cpu", (0, 8)), seam.bytes_to("gpu", (4, 16))) == (200, 200)
    assert (seam.bytes_to("cpu", None), seam.bytes_to("gpu", None)) == (1000, 600)
    assert (seam.bytes_to("cpu", (0, 5)), seam.bytes_to("gpu", (9, 16))) == (0, 0)
    assert Seam(16, 16, 100).bytes_to("gpu", (4, 16)) == 1200


def test_the_timeline_counts_the_rows_that_are_read() -> None:
    from spaces import candidate, costs, kernel_us

    from syncnas_tvm.simulator import Simulator

    concat = Kernel("concat", ((1,), (50,)), "float32", "cpu")
    sync = Sync("concat", 6000, 10_000, (concat,), Seam(6, 16, 1000))

    def plan(reads: tuple[tuple[int, int], tuple[int, int]] | None) -> list[object]:
        first = Phase((band("cpu", 100),), (band("gpu", 100),), sync)
        then = Phase((band("cpu", 100),), (band("gpu", 100),), sync, reads)
        return [candidate(first), candidate(then, region="r1")]

    found = Simulator(costs(0.0, 0.001, 0.0), kernel_us).timeline(plan(((0, 8), (4, 16))))
    moves = [s.name for s in found.spans if s.kind == "transfer"]
    assert moves[-3:] == ["cpu to gpu 2000 B", "gpu to cpu 2000 B", "gpu to cpu 10000 B"]
    assert found.count("sync") == 0
    scorer = Simulator(costs(0.0, 0.001, 0.0), kernel_us)
    assert found.latency_us == pytest.approx(scorer.score(plan(((0, 8), (4, 16)))))
    assert scorer.score(plan(None)) > found.latency_us


def test_exchange_of_rows_in_the_runtime() -> None:
    """The function that the first run calls: a copy, on the lane of what is exchanged into."""
    exchange = tvm.get_global_func("vm.builtin.exchange_rows")
    own = np.arange(2 * 5 * 3, dtype="float32").reshape(2, 5, 3)
    source = -np.arange(2 * 4 * 3, dtype="float32").reshape(2, 4, 3)
    expected = own.copy()
    expected[:, 3:5] = source[:, 1:3]
    for here, there in ((tvm.cpu(), tvm.opencl()), (tvm.opencl(), tvm.cpu())):
        mine, theirs = tvm.runtime.tensor(own, here), tvm.runtime.tensor(source, there)
        found = exchange(mine, theirs, 1, 3, 1, 2)
        assert found.device == here
        assert np.array_equal(found.numpy(), expected)
        assert np.array_equal(mine.numpy(), own)
        for wrong in ((1, 4, 1, 2), (1, 3, 3, 2), (3, 0, 0, 1), (0, 0, 0, 1), (1, 0, 0, 0)):
            with pytest.raises(ValueError, match="do not fit"):
                exchange(mine, theirs, *wrong)
    whole = tvm.get_global_func("vm.builtin.rows_to_device")
    moved = whole(tvm.runtime.tensor(own), 4, 0, 1, 2, 3)
    assert np.array_equal(moved.numpy()[:, 2:], own[:, 2:])
    with pytest.raises(ValueError, match="do not fit"):
        whole(tvm.runtime.tensor(own), 4, 0, 1, 3, 3)


def test_work_says_what_is_read_and_where_bands_meet() -> None:
    graph = graph_of(three_blocks, channels=8, size=16)
    decision = rows("r1", 6)
    work: Work = work_of(apply_plan_module(graph, decision), "r1")
    assert work.phases[0].reads == ((0, 8), (4, 16))
    assert work.phases[-1].output.seam == Seam(6, 16, 8 * 16 * 4)
