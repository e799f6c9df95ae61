"""Rows next to the cut that a lane computes first: exact, in place, and on their way in time."""

from __future__ import annotations

import pytest
import tvm
from graph_nets import evaluate, graph_of, placed, random_inputs, relative_error, run_compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from test_row_seams import packed_calls, rows, three_blocks
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.region_work import work_of
from syncnas_tvm.graph.row_work import run_work
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.lowering import lower
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.insert_transfers import EXCHANGE, ROWS_TRANSFER, InsertTransfers
from syncnas_tvm.passes.rule import rule
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import load_target


def early(region: str | tuple[str, ...], cut: int, cpu: int, gpu: int) -> Decision:
    return Decision.of(region, "RowSplit", cpu_rows=cut, cpu_border=cpu, gpu_border=gpu)


def blocks(size: int = 16) -> RegionGraph:
    return graph_of(three_blocks, channels=8, size=size)


def order(mod: tvm.IRModule) -> list[str]:
    """What ``main`` calls, in order."""
    names = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                call = binding.value
                own = isinstance(call.op, tvm.ir.GlobalVar)
                names.append(call.op.name_hint if own else call.args[0].global_symbol)
    return names


def test_rows_leave_before_the_rest_is_computed() -> None:
    graph = blocks()
    plan = Plan((early("r0", 9, 2, 2), rows("r1", 9), rows("r2", 4)))
    moved = InsertTransfers()(apply_plan(graph, plan))
    calls = order(moved)[1:8]
    assert calls == [
        "r0_p0_gpu",
        ROWS_TRANSFER,  # behind the border's kernel in the queue, before the rest's
        "r0_p0_gpu_rest",
        "r0_p0_cpu",
        EXCHANGE,
        "r1_p0_gpu",
        "r0_p0_cpu_rest",  # the GPU has what comes next
    ]
    assert packed_calls(moved, ROWS_TRANSFER)[1] == [1, 0, ROWS, 9, 2]
    assert packed_calls(moved, EXCHANGE)[:2] == [[ROWS, 7, 7, 2], [ROWS, 9, 9, 2]]


def test_who_lacks_nothing_waits_for_nothing() -> None:
    """The next run's cut is higher up: the CPU lane has all that it reads, the GPU lane lacks rows."""
    graph = blocks()
    plan = Plan((early("r0", 9, 5, 1), rows("r1", 6), rows("r2", 3)))
    moved = InsertTransfers()(apply_plan(graph, plan))
    calls = order(moved)
    assert calls.index("r1_p0_gpu") < calls.index("r0_p0_cpu_rest") < calls.index("r1_p0_cpu")
    assert packed_calls(moved, EXCHANGE)[0] == [ROWS, 4, 4, 5]


def test_rows_that_do_not_suffice_are_fetched_as_ever() -> None:
    """The next run reads two rows over the cut: one that was computed first, and one of the rest."""
    graph = blocks()
    plan = Plan((early("r0", 9, 1, 1), rows("r1", 9), rows("r2", 4)))
    moved = InsertTransfers()(apply_plan(graph, plan))
    calls = order(moved)
    assert calls.index("r0_p0_cpu_rest") < calls.index("r1_p0_gpu")
    assert packed_calls(moved, EXCHANGE)[:4] == [
        *([ROWS, 9, 9, 1], [ROWS, 10, 10, 1]),
        *([ROWS, 8, 8, 1], [ROWS, 7, 7, 1]),
    ]


def test_both_kernels_write_one_tensor() -> None:
    graph = blocks()
    plan = Plan((early("r0", 9, 2, 2), rows("r1", 9), rows("r2", 4)))
    lowered = lower(apply_plan(graph, plan), load_target("host"))
    names = [gv.name_hint for gv in lowered.get_global_vars()]
    assert not [name for name in names if "pad" in name or "concat" in name]
    rest = lowered["r0_p0_gpu_rest"]
    kept = {param for param in rest.params if rest.ret_ty == param.ty}
    (block,) = rest.body.blocks
    assert not [b for b in block.bindings if "alloc_tensor" in str(b.value)]
    assert kept


SIZES = (16, 13)
GRAPHS = {size: blocks(size) for size in SIZES}


@given(
    size=st.sampled_from(SIZES),
    cuts=st.tuples(st.integers(4, 10), st.integers(4, 10), st.integers(2, 5)),
    borders=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=3),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_every_border_is_exact(
    size: int, cuts: tuple[int, int, int], borders: list[tuple[int, int]]
) -> None:
    graph = GRAPHS[size]
    inputs = random_inputs(graph.mod)
    expected = evaluate(apply_plan(graph, Plan(placed(graph, "cpu"))), inputs)
    decisions = []
    for name, cut, (cpu, gpu) in zip(graph.names, cuts, borders, strict=True):
        chosen = early(name, cut, cpu, gpu)
        possible = cpu and gpu and run_work(graph, (name,), cut, (cpu, gpu))
        decisions.append(chosen if possible else rows(name, cut))
    applied = apply_plan(graph, Plan(tuple(decisions)))
    assert relative_error(evaluate(applied, inputs)[0], expected[0]) < 1e-5
    found = run_compiled(applied, load_target("host"), inputs)
    assert relative_error(found[0], expected[0]) < 1e-5


def squeezing(n, x):
    """Two phases: the border is of the last one."""
    x = n.mbconv(x, 24, 8, 3, se="before")
    return n.mbconv(x, 24, 8, 3)


def test_after_squeeze_and_excite_and_between_types() -> None:
    graph = graph_of(squeezing, channels=8, size=12)
    inputs = random_inputs(graph.mod)
    expected = evaluate(apply_plan(graph, Plan(placed(graph, "cpu"))), inputs)
    mod = apply_plan(graph, Plan((early("r0", 6, 1, 2), rows("r1", 7))))
    found = run_compiled(mod, load_target("host"), inputs)
    assert relative_error(found[0], expected[0]) < 1e-5
    half = run_compiled(mod, load_target("host"), inputs, types=LaneTypes("float32", "float16"))
    assert relative_error(half[0], expected[0]) < 2e-2


@pytest.mark.parametrize("names", [("r1",), ("r0", "r1")])
def test_the_work_is_that_of_what_is_written(names: tuple[str, ...]) -> None:
    graph = blocks()
    decision = early(names, 6, 2, 1)
    region, split = graph.run(names), rule("RowSplit")
    predicted = split.work(graph, region, decision)
    written = split.rewrite(graph.module_of(names), graph, region, decision)
    assert predicted == work_of(written, region.name)
    assert predicted.phases[-1].output.seam.early == (2, 1)
    cpu, gpu = predicted.phases[-1].cpu, predicted.phases[-1].gpu
    assert [kernel.out_shape[ROWS] for kernel in (*cpu[-2:], *gpu[-2:])] == [2, 4, 1, 9]


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ((0, 1), "cpu_border is 0; use a whole number from 1 on"),
        ((1, True), "gpu_border is True"),
        ((6, 1), "narrower borders"),
        ((1, 12), "narrower borders"),
    ],
)
def test_wrong_borders(borders: tuple[int, int], message: str) -> None:
    graph = blocks()
    with pytest.raises(PlanError, match=message):
        apply_plan(graph, Plan((early("r0", 6, *borders), rows("r1", 6), rows("r2", 3))))


def test_a_misspelt_parameter_is_named() -> None:
    graph = blocks()
    decision = Decision.of("r0", "RowSplit", cpu_rows=6, cpu_boarder=1, gpu_boarder=1)
    with pytest.raises(PlanError, match="unknown parameter 'cpu_boarder'; RowSplit has cpu_rows,"):
        apply_plan(graph, Plan((decision, rows("r1", 6), rows("r2", 3))))


def gated(n, x):
    """The second convolution takes in the product with the gate, which is there a phase later."""
    x = n.relu(n.conv(x, 8, 3, name="first"))
    gate = n.emit(relax.op.sigmoid(n.mean(x)), "gate")
    return n.emit(relax.op.multiply(n.conv(x, 8, 3, name="second"), gate), "gated")


def test_a_kernel_of_two_phases_is_not_cut() -> None:
    graph = graph_of(gated, channels=8, size=12)
    *others, name = graph.names
    assert run_work(graph, (name,), 6) is not None
    assert run_work(graph, (name,), 6, (2, 2)) is None
    placed_first = [Decision.of(other, "Place", lane="cpu") for other in others]
    with pytest.raises(PlanError, match="narrower borders"):
        apply_plan(graph, Plan((*placed_first, early(name, 6, 2, 2))))


def test_one_border_alone() -> None:
    graph = blocks()
    decision = Decision.of("r0", "RowSplit", cpu_rows=6, cpu_border=1)
    with pytest.raises(PlanError, match="no parameter 'gpu_border'"):
        apply_plan(graph, Plan((decision, rows("r1", 6), rows("r2", 3))))
